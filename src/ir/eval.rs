//! The reference meaning of functions: slow, obvious, checked.
//!
//! In: a verified module, a tensor for every input, a value for every free dim. Out: the results, or an error where the program's own checks
//! fail: a load or store out of bounds, a failed `check`, a size without a value. Fold orders are those of [`Fold`], to the bit.

use crate::ir::*;
use crate::math;
use nnc_runtime::tensor::{Tensor, elements};

/// Values a single tensor may hold here, so that a wrong size is an error and not an exhausted machine.
const LIMIT: i64 = 1 << 31;

/// The function's results on `inputs`.
pub fn function(module: &Module, id: FunctionId, inputs: &[Tensor], dims: &Dims) -> Result<Vec<Tensor>, String> {
    let f = module.function(id);
    if inputs.len() != f.inputs.len() {
        return Err(format!("@{} takes {} inputs, not {}", f.name, f.inputs.len(), inputs.len()));
    }
    for (input, tensor) in f.inputs.iter().zip(inputs) {
        let shape = sizes(&input.ty.shape, dims)?;
        if tensor.dtype != input.ty.dtype || tensor.shape != shape {
            return Err(format!("input {} of @{} is {}{shape:?}, not {}{:?}", input.name, f.name, input.ty.dtype, tensor.dtype, tensor.shape));
        }
    }
    let mut values: Vec<Vec<Tensor>> = Vec::with_capacity(f.nodes.len());
    for (id, node) in f.iter() {
        let operands: Vec<&Tensor> = node.operands.iter().map(|v| &values[v.node.0 as usize][v.result as usize]).collect();
        let results = self::node(module, node, &operands, inputs, dims).map_err(|e| match &node.op {
            Op::Call(_) | Op::Scan(_) | Op::Check(_) => e,
            _ => format!("@{} %{}: {e}", f.name, node.name.as_deref().map(String::from).unwrap_or(id.0.to_string())),
        })?;
        values.push(results);
    }
    Ok(f.results.iter().map(|(_, v)| values[v.node.0 as usize][v.result as usize].clone()).collect())
}

/// The results of one node; `inputs` are the function's.
pub fn node(module: &Module, node: &Node, operands: &[&Tensor], inputs: &[Tensor], dims: &Dims) -> Result<Vec<Tensor>, String> {
    match &node.op {
        Op::Input(n) => Ok(vec![inputs[*n].clone()]),
        Op::Constant(values) => Ok(vec![Tensor::from_scalars(node.types[0].dtype, &sizes(&node.types[0].shape, dims)?, values)]),
        Op::Nest(nest) => self::nest(nest, &node.types, operands, dims),
        Op::Place(place) => Ok(vec![self::place(place, node.types[0].dtype, operands, dims)?]),
        Op::Scatter(scatter) => Ok(vec![self::scatter(scatter, operands, dims)?]),
        Op::Scan(scan) => self::scan(module, scan, &node.types, operands, dims),
        Op::Sort { descending } => Ok(sort(*descending, operands[0])),
        Op::Reshape => {
            let mut tensor = operands[0].clone();
            let shape = sizes(&node.types[0].shape, dims)?;
            if elements(&shape) != elements(&tensor.shape) {
                return Err(format!("reshape of {:?} to {shape:?}", tensor.shape));
            }
            tensor.shape = shape;
            Ok(vec![tensor])
        }
        Op::StopGradient => Ok(vec![operands[0].clone()]),
        Op::Call(callee) => {
            let args: Vec<Tensor> = operands.iter().map(|t| (*t).clone()).collect();
            function(module, *callee, &args, dims)
        }
        Op::Check(message) => match operands[1].as_bool().iter().all(|b| *b) {
            true => Ok(vec![operands[0].clone()]),
            false => Err(message.to_string()),
        },
    }
}

/// The sizes' values: not negative, and few enough elements.
pub fn sizes(shape: &[Size], dims: &Dims) -> Result<Vec<i64>, String> {
    let values: Vec<i64> = shape.iter().map(|s| s.eval(dims).map_err(|e| e.to_string())).collect::<Result<_, _>>()?;
    match elements(&values) {
        Some(n) if n <= LIMIT => Ok(values),
        _ => Err(format!("a tensor of shape {values:?}")),
    }
}

/// What an expression sees: operands, dims, and the point of the box.
struct Env<'a> {
    operands: &'a [&'a Tensor],
    dims: &'a Dims,
    point: &'a [i64],
}

impl Env<'_> {
    fn at<'a>(&'a self, point: &'a [i64]) -> Env<'a> {
        Env { point, ..*self }
    }

    fn size(&self, size: &Size) -> Result<i64, String> {
        match size.as_const() {
            Some(n) => Ok(n),
            None => size.eval(self.dims).map_err(|e| e.to_string()),
        }
    }

    fn affine(&self, affine: &Affine) -> Result<i64, String> {
        let mut sum = self.size(&affine.constant)?;
        for (atom, c) in &affine.terms {
            let divided = |a: &Affine, by: &Size| -> Result<(i64, i64), String> {
                match (self.affine(a)?, self.size(by)?) {
                    (_, by) if by <= 0 => Err(format!("an index divided by {by}")),
                    (a, by) => Ok((a, by)),
                }
            };
            let value = match atom {
                IndexAtom::Var(v) => self.point[*v],
                IndexAtom::Div(a, by) => divided(a, by).map(|(a, by)| a.div_euclid(by))?,
                IndexAtom::Mod(a, by) => divided(a, by).map(|(a, by)| a.rem_euclid(by))?,
            };
            sum = value.checked_mul(self.size(c)?).and_then(|x| sum.checked_add(x)).ok_or("an index does not fit in 63 bits")?;
        }
        Ok(sum)
    }

    fn holds(&self, guards: &[Guard]) -> Result<bool, String> {
        for guard in guards {
            let value = self.affine(&guard.expr)?;
            let holds = match guard.relation {
                Relation::NonNegative => value >= 0,
                Relation::Zero => value == 0,
                Relation::NonZero => value != 0,
            };
            if !holds {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The linear position of `index` in `shape`; nothing if out of bounds.
    fn position(&self, index: &[Index], shape: &[i64]) -> Result<Result<usize, String>, String> {
        let mut linear = 0;
        let mut outside = None;
        for (axis, (index, size)) in index.iter().zip(shape).enumerate() {
            let i = match index {
                Index::Affine(a) => self.affine(a)?,
                Index::Gather(e) => self.expr(e)?.to_i64(),
            };
            if !(0..*size).contains(&i) {
                outside.get_or_insert_with(|| format!("index {i} is outside of axis {axis}, which has size {size}"));
                continue;
            }
            linear = linear * size + i;
        }
        Ok(outside.map_or(Ok(linear as usize), Err))
    }

    fn expr(&self, expr: &Expr) -> Result<Scalar, String> {
        match expr {
            Expr::Const(c) => Ok(*c),
            Expr::Load { operand, index, otherwise } => {
                let tensor = self.operands[*operand];
                match (self.position(index, &tensor.shape)?, otherwise) {
                    (Ok(i), _) => Ok(tensor.get(i)),
                    (Err(_), Some(value)) => Ok(*value),
                    (Err(e), None) => Err(e),
                }
            }
            Expr::Index(a) => Ok(Scalar::i64(self.affine(a)?)),
            Expr::Holds(guards) => Ok(Scalar::bool(self.holds(guards)?)),
            // Only the chosen side's loads happen.
            Expr::Op(ScalarOp::Select, args) => match self.expr(&args[0])?.to_bool() {
                true => self.expr(&args[1]),
                false => self.expr(&args[2]),
            },
            Expr::Op(op, args) => {
                let args: Vec<Scalar> = args.iter().map(|a| self.expr(a)).collect::<Result<_, _>>()?;
                Ok(math::apply(*op, &args))
            }
            Expr::Cast(to, from) => Ok(math::cast(*to, self.expr(from)?)),
        }
    }
}

/// Sees a point and its linear position.
type Visit<'a> = dyn FnMut(usize, &[i64]) -> Result<(), String> + 'a;

/// Calls `see` with every point of the box in lexical order, last index fastest, and its linear position.
fn points(shape: &[i64], see: &mut Visit<'_>) -> Result<(), String> {
    let count = elements(shape).filter(|n| *n <= LIMIT).ok_or_else(|| format!("a box of sizes {shape:?}"))?;
    let mut point = vec![0; shape.len()];
    for linear in 0..count {
        see(linear as usize, &point)?;
        for axis in (0..shape.len()).rev() {
            point[axis] += 1;
            if point[axis] < shape[axis] {
                break;
            }
            point[axis] = 0;
        }
    }
    Ok(())
}

fn nest(nest: &Nest, types: &[Type], operands: &[&Tensor], dims: &Dims) -> Result<Vec<Tensor>, String> {
    let env = Env { operands, dims, point: &[] };
    let (outs, reds) = (sizes(&nest.outs, dims)?, sizes(&nest.reds, dims)?);
    let mut results: Vec<Tensor> = types.iter().map(|t| Tensor::zeros(t.dtype, &outs)).collect();
    if nest.fold.is_windowed() {
        let all = match nest.fold {
            Fold::Winograd => squares,
            Fold::WinogradWeights => windows,
            _ => lines,
        };
        all(nest, [&outs, &reds], &env, &mut results[0])?;
        return Ok(results);
    }
    let zero = Scalar::float(types[0].dtype, 0.0);
    points(&outs, &mut |at, out| {
        let mut fold = Accumulator::new(nest.fold, types[0].dtype);
        points(&reds, &mut |k, red| {
            let point = [out, red].concat();
            let env = env.at(&point);
            if nest.fold == Fold::Dot {
                fold.leaf(k);
            }
            if env.holds(&nest.guards)? {
                match (&nest.body, nest.fold) {
                    (Expr::Op(ScalarOp::Mul, factors), Fold::Dot) => fold.product(env.expr(&factors[0])?, env.expr(&factors[1])?),
                    (body, _) => fold.add(k, env.expr(body)?),
                }
            }
            Ok(())
        })?;
        let (value, position) = fold.finish();
        results[0].set(at, value.unwrap_or(zero));
        if let Some(positions) = results.get_mut(1) {
            positions.set(at, Scalar::i64(position));
        }
        Ok(())
    })?;
    Ok(results)
}

/// The nest of a [`Fold::Winograd`], square by square.
fn squares(nest: &Nest, [outs, reds]: [&[i64]; 2], env: &Env, result: &mut Tensor) -> Result<(), String> {
    let (Expr::Op(_, factors), [count, taps, _], [before @ .., height, width]) = (&nest.body, reds, outs) else { return Err("no window".into()) };
    let corners = [before, &[(height + 1) / 2, (width + 1) / 2]].concat();
    points(&corners, &mut |linear, corner| {
        let [at @ .., y, x] = corner else { unreachable!("a corner has two axes at least") };
        let factor = |n: usize| {
            move |k: i64, a: i64, b: i64| {
                let point = [at, &[2 * y, 2 * x, k, a, b]].concat();
                env.at(&point).expr(&factors[n])
            }
        };
        let square = math::winograd::square(result.dtype, *count, *taps == 4, &mut factor(0), &mut factor(1))?;
        let first = linear as i64 / (corners[before.len()] * corners[before.len() + 1]) * height * width;
        for (i, line) in square.iter().enumerate() {
            for (j, value) in line.iter().enumerate() {
                let (y, x) = (2 * y + i as i64, 2 * x + j as i64);
                if y < *height && x < *width {
                    result.set((first + y * width + x) as usize, *value);
                }
            }
        }
        Ok(())
    })
}

/// The nest of a [`Fold::WinogradWeights`], window by window.
fn windows(nest: &Nest, [outs, reds]: [&[i64]; 2], env: &Env, result: &mut Tensor) -> Result<(), String> {
    let (Expr::Op(_, factors), &[images, height, width], [before @ .., _, _]) = (&nest.body, reds, outs) else { return Err("no window".into()) };
    points(before, &mut |linear, at| {
        let factor = |n: usize, tap: [i64; 2], point: [i64; 3]| env.at(&[at, &tap, &point].concat()).expr(&factors[n]);
        let gradient = &mut |point| factor(0, [0, 0], point);
        let window = math::winograd::window(result.dtype, [images, height, width], gradient, &mut |point, tap| factor(1, tap, point))?;
        window.iter().flatten().enumerate().for_each(|(tap, value)| result.set(9 * linear + tap, *value));
        Ok(())
    })
}

/// The nest of a [`Fold::DotLines`], tap by tap.
fn lines(nest: &Nest, [outs, reds]: [&[i64]; 2], env: &Env, result: &mut Tensor) -> Result<(), String> {
    let (Expr::Op(_, factors), &[images, height, width]) = (&nest.body, reds) else { return Err("no window".into()) };
    points(outs, &mut |linear, at| {
        let factor = |n: usize, point: [i64; 3]| env.at(&[at, &point].concat()).expr(&factors[n]);
        let both = &mut |point| Ok::<_, String>([factor(0, point)?, factor(1, point)?]);
        result.set(linear, math::lines::sum(result.dtype, [images, height, width], both)?);
        Ok(())
    })
}

/// What a fold remembers between points.
struct Accumulator {
    fold: Fold,
    dtype: DType,
    /// 16 lanes; for a dot, the leaves, of which the last is open; for the others the value.
    lanes: Vec<Scalar>,
    /// Whether a point took part.
    any: bool,
    position: i64,
}

impl Accumulator {
    fn new(fold: Fold, dtype: DType) -> Accumulator {
        let lanes = match fold {
            Fold::Sum | Fold::Prod | Fold::Max | Fold::Min => vec![fold.neutral(dtype); 16],
            Fold::Dot | Fold::Winograd | Fold::WinogradWeights | Fold::DotLines => vec![],
            Fold::None | Fold::ArgMax | Fold::ArgMin => vec![fold.neutral(dtype)],
        };
        Accumulator { fold, dtype, lanes, any: false, position: 0 }
    }

    /// Opens a new leaf of a dot at every 256th point.
    fn leaf(&mut self, k: usize) {
        if k.is_multiple_of(256) {
            self.lanes.push(self.fold.neutral(self.dtype));
        }
    }

    fn product(&mut self, a: Scalar, b: Scalar) {
        let last = self.lanes.len() - 1;
        self.lanes[last] = math::apply(ScalarOp::Fma, &[a, b, self.lanes[last]]);
    }

    fn add(&mut self, k: usize, value: Scalar) {
        let nan = |x: Scalar| x.to_f64().is_nan();
        let first = !self.any;
        self.any = true;
        match self.fold {
            Fold::None => self.lanes[0] = value,
            Fold::Sum | Fold::Prod | Fold::Max | Fold::Min => self.lanes[k % 16] = math::apply(self.fold.join(), &[self.lanes[k % 16], value]),
            Fold::ArgMax | Fold::ArgMin => {
                let best = self.lanes[0];
                let pair = if self.fold == Fold::ArgMax { [best, value] } else { [value, best] };
                if first || (!nan(best) && (nan(value) || math::apply(ScalarOp::Lt, &pair).to_bool())) {
                    (self.lanes[0], self.position) = (value, k as i64);
                }
            }
            Fold::Dot | Fold::Winograd | Fold::WinogradWeights | Fold::DotLines => unreachable!("the body of a dot is a product"),
        }
    }

    /// The value, where there is one without a point, and the position.
    fn finish(mut self) -> (Option<Scalar>, i64) {
        match self.fold {
            Fold::None if !self.any => (None, 0),
            Fold::None | Fold::ArgMax | Fold::ArgMin => (Some(self.lanes[0]), self.position),
            Fold::Sum | Fold::Prod | Fold::Max | Fold::Min => {
                for half in [8, 4, 2, 1] {
                    for l in 0..half {
                        self.lanes[l] = math::apply(self.fold.join(), &[self.lanes[l], self.lanes[l + half]]);
                    }
                }
                (Some(self.lanes[0]), 0)
            }
            Fold::Dot | Fold::Winograd | Fold::WinogradWeights | Fold::DotLines => {
                (self.lanes.into_iter().reduce(|sum, leaf| math::apply(ScalarOp::Add, &[sum, leaf])), 0)
            }
        }
    }
}

fn place(place: &Place, dtype: DType, operands: &[&Tensor], dims: &Dims) -> Result<Tensor, String> {
    let env = Env { operands, dims, point: &[] };
    let shape = sizes(&place.shape, dims)?;
    let (mut result, first) = match place.base {
        Base::Fill(value) => (Tensor::filled(&shape, value), 0),
        Base::Operand => (operands[0].clone(), 1),
    };
    debug_assert_eq!(result.dtype, dtype);
    for (n, piece) in place.pieces.iter().enumerate() {
        let tensor = operands[first + n];
        if tensor.is_empty() {
            continue;
        }
        let mut start = Vec::new();
        let mut stride = Vec::new();
        for (axis, size) in shape.iter().enumerate() {
            let step = env.size(&piece.stride[axis])?;
            let reach = (tensor.shape[axis] - 1).checked_mul(step).ok_or("a piece is too long")?;
            let from = match &piece.start[axis] {
                Start::Size(s) => env.size(s)?,
                Start::Runtime(n) => operands[first + place.pieces.len() + n].as_i64()[0].min(size - 1 - reach).max(0),
            };
            if step < 1 || from < 0 || from + reach >= *size {
                return Err(format!("piece {n} does not fit into axis {axis}, which has size {size}"));
            }
            start.push(from);
            stride.push(step);
        }
        points(&tensor.shape, &mut |at, point| {
            let linear = (0..shape.len()).fold(0, |sum, axis| sum * shape[axis] + start[axis] + point[axis] * stride[axis]);
            result.set(linear as usize, tensor.get(at));
            Ok(())
        })?;
    }
    Ok(result)
}

fn scatter(scatter: &Scatter, operands: &[&Tensor], dims: &Dims) -> Result<Tensor, String> {
    let env = Env { operands, dims, point: &[] };
    let mut result = operands[0].clone();
    let shape = result.shape.clone();
    points(&sizes(&scatter.points, dims)?, &mut |_, point| {
        let env = env.at(point);
        if env.holds(&scatter.guards)? {
            let at = env.position(&scatter.index, &shape)??;
            let (old, new) = (result.get(at), env.expr(&scatter.value)?);
            let joined = match scatter.fold {
                ScatterFold::Replace => new,
                ScatterFold::Sum => math::apply(ScalarOp::Add, &[old, new]),
                ScatterFold::Prod => math::apply(ScalarOp::Mul, &[old, new]),
                ScatterFold::Max => math::apply(ScalarOp::Max, &[old, new]),
                ScatterFold::Min => math::apply(ScalarOp::Min, &[old, new]),
            };
            result.set(at, joined);
        }
        Ok(())
    })?;
    Ok(result)
}

fn scan(module: &Module, scan: &Scan, types: &[Type], operands: &[&Tensor], dims: &Dims) -> Result<Vec<Tensor>, String> {
    let length = scan.length.eval(dims).map_err(|e| e.to_string())?;
    let mut results: Vec<Tensor> = operands[..scan.carries].iter().map(|t| (*t).clone()).collect();
    for ty in &types[scan.carries..] {
        results.push(Tensor::zeros(ty.dtype, &sizes(&ty.shape, dims)?));
    }
    let (sequences, constants) = operands[scan.carries..].split_at(scan.inputs.len());
    for step in 0..length {
        let i = if scan.reversed { length - 1 - step } else { step };
        let mut args = vec![Tensor::scalar(Scalar::i64(i))];
        args.extend(results[..scan.carries].iter().cloned());
        args.extend(sequences.iter().zip(&scan.inputs).map(|(t, axis)| slice(t, *axis, i)));
        args.extend(constants.iter().map(|t| (*t).clone()));
        for (n, value) in function(module, scan.body, &args, dims)?.into_iter().enumerate() {
            match n < scan.carries {
                true => results[n] = value,
                false => stack(&mut results[n], scan.outputs[n - scan.carries], i, &value),
            }
        }
    }
    Ok(results)
}

/// The part of `tensor` at position `i` of `axis`, without that axis.
fn slice(tensor: &Tensor, axis: usize, i: i64) -> Tensor {
    let mut shape = tensor.shape.clone();
    let length = shape.remove(axis) as usize;
    let mut part = Tensor::zeros(tensor.dtype, &shape);
    let inner: usize = shape[axis..].iter().product::<i64>() as usize;
    (0..part.len()).for_each(|k| part.set(k, tensor.get((k / inner * length + i as usize) * inner + k % inner)));
    part
}

/// Writes `part` at position `i` of `axis`.
fn stack(whole: &mut Tensor, axis: usize, i: i64, part: &Tensor) {
    let inner: usize = part.shape[axis..].iter().product::<i64>() as usize;
    let length = whole.shape[axis] as usize;
    (0..part.len()).for_each(|k| whole.set((k / inner * length + i as usize) * inner + k % inner, part.get(k)));
}

fn sort(descending: bool, tensor: &Tensor) -> Vec<Tensor> {
    let row = tensor.shape.last().copied().unwrap_or(1) as usize;
    let mut values = tensor.clone();
    let mut positions = Tensor::zeros(DType::I64, &tensor.shape);
    // NaN is largest; the two zeros are equal.
    let order = |a: Scalar, b: Scalar| match a.dtype() {
        DType::F32 | DType::F64 => a.to_f64().partial_cmp(&b.to_f64()).unwrap_or_else(|| a.to_f64().is_nan().cmp(&b.to_f64().is_nan())),
        DType::I64 | DType::Bool => a.to_i64().cmp(&b.to_i64()),
    };
    for first in (0..tensor.len()).step_by(row.max(1)) {
        let mut at: Vec<usize> = (0..row).collect();
        at.sort_by(|a, b| {
            let ascending = order(tensor.get(first + a), tensor.get(first + b));
            if descending { ascending.reverse() } else { ascending }
        });
        for (i, from) in at.into_iter().enumerate() {
            values.set(first + i, tensor.get(first + from));
            positions.set(first + i, Scalar::i64(from as i64));
        }
    }
    vec![values, positions]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(f: Function, inputs: &[Tensor], dims: &[(&str, i64)]) -> Result<Vec<Tensor>, String> {
        let mut module = Module::default();
        let id = module.add(f);
        function(&module, id, inputs, &dims.iter().map(|(n, v)| ((*n).into(), *v)).collect())
    }

    /// `y = fold[k](body)` of one operand of 600 elements.
    fn folded(fold: Fold, body: Expr, values: &[f32]) -> Scalar {
        let mut f = Function::new("f");
        let n = Size::dim("N");
        let x = f.input("x", Type::new(DType::F32, [n.clone()]));
        let y = f.nest(Nest::fold(vec![], vec![n], fold, body), [x], Default::default());
        f.results.push((None, y));
        run(f, &[Tensor::from_f32(&[values.len() as i64], values)], &[("N", values.len() as i64)]).unwrap()[0].get(0)
    }

    #[test]
    fn folds_keep_their_order() {
        let values: Vec<f32> = (0..600).map(|i| 1.0 / (i as f32 + 0.7)).collect();
        let mut lanes = [0f32; 16];
        values.iter().enumerate().for_each(|(k, v)| lanes[k % 16] += v);
        for half in [8, 4, 2, 1] {
            (0..half).for_each(|l| lanes[l] += lanes[l + half]);
        }
        assert_eq!(folded(Fold::Sum, load_at(0, [0]), &values), Scalar::f32(lanes[0]));
        let leaves: Vec<f32> = values.chunks(256).map(|c| c.iter().fold(0f32, |acc, v| v.mul_add(*v, acc))).collect();
        let product = Expr::op(ScalarOp::Mul, [load_at(0, [0]), load_at(0, [0])]);
        assert_eq!(folded(Fold::Dot, product.clone(), &values), Scalar::f32(leaves[0] + leaves[1] + leaves[2]));
        assert_eq!(folded(Fold::Dot, product, &[]), Scalar::f32(0.0));
        assert_eq!(folded(Fold::Max, load_at(0, [0]), &[]), Scalar::f32(f32::NEG_INFINITY));
        assert_eq!(folded(Fold::ArgMin, load_at(0, [0]), &[3.0, -1.0, -1.0]), Scalar::f32(-1.0));
    }

    #[test]
    fn out_of_bounds_is_an_error_and_else_is_not() {
        let shifted = |otherwise| Expr::Load { operand: 0, index: vec![Index::Affine(Affine::var(0).sub(&Affine::constant(1)))], otherwise };
        let build = |otherwise| {
            let mut f = Function::new("f");
            let x = f.input("x", Type::new(DType::I64, [Size::constant(3)]));
            let y = f.nest(Nest::map(vec![Size::constant(3)], shifted(otherwise)), [x], Default::default());
            f.results.push((None, y));
            run(f, &[Tensor::from_i64(&[3], &[5, 6, 7])], &[])
        };
        assert_eq!(build(Some(Scalar::i64(9))).unwrap()[0].as_i64(), [9, 5, 6]);
        assert!(build(None).unwrap_err().contains("index -1 is outside of axis 0, which has size 3"));
    }

    #[test]
    fn scans_slice_and_stack_along_their_axes() {
        // carry + x[:, t], stacked on the last axis, backwards.
        let mut module = Module::default();
        let pair = Type::new(DType::I64, [Size::constant(2)]);
        let mut body = Function::new("step");
        body.input("t", Type::scalar(DType::I64));
        let (c, x) = (body.input("c", pair.clone()), body.input("x", pair.clone()));
        let sum = Expr::op(ScalarOp::Add, [load_at(0, [0]), load_at(1, [0])]);
        let next = body.nest(Nest::map(pair.shape.clone(), sum), [c, x], Default::default());
        body.results = vec![(None, next), (None, next)];
        let step = module.add(body);
        let mut f = Function::new("f");
        let table = Type::new(DType::I64, [Size::constant(2), Size::dim("T")]);
        let (c, x) = (f.input("c", pair.clone()), f.input("x", table.clone()));
        let scan = Scan { body: step, length: Size::dim("T"), reversed: true, carries: 1, inputs: vec![1], outputs: vec![1] };
        let node = f.push_node(Node { op: Op::Scan(scan), operands: vec![c, x], types: vec![pair, table], name: None, span: Default::default() });
        f.results = vec![(None, Value { node, result: 0 }), (None, Value { node, result: 1 })];
        let id = module.add(f);
        let inputs = [Tensor::from_i64(&[2], &[0, 100]), Tensor::from_i64(&[2, 3], &[1, 2, 3, 4, 5, 6])];
        let results = function(&module, id, &inputs, &[("T".into(), 3)].into()).unwrap();
        assert_eq!(results[0].as_i64(), [6, 115]);
        assert_eq!(results[1].as_i64(), [6, 5, 3, 115, 111, 106]);
    }
}
