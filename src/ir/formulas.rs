//! A function as a textbook would write it: for readers, never read back.
//!
//! In: a verified function. Out: a line for each value worth a name: what is used once stands where it is used, casts and types go, a dot is a
//! sum, literals lose their point: `dw = sum[b](2*(w*x[b] - t[b])*x[b]) / B`.

use crate::ir::print::{affine, guard, index_name, precedence, scalar};
use crate::ir::*;
use std::collections::BTreeSet;
use std::fmt::Write;

/// Heads longer than this get a line for each input.
const WIDTH: usize = 140;
/// Expressions of more parts than this get a line of their own.
const LARGEST: usize = 40;

/// The function's formulas; nothing, if there are none. A new value of something that goes in is called as that, with a prime.
pub fn formulas(module: &Module, f: &Function) -> String {
    let inputs: Vec<String> = f.inputs.iter().map(|i| signature(&i.name, &i.ty)).collect();
    let mut text = format!("{}({})\n", f.name, inputs.join(", "));
    if text.len() > WIDTH {
        text = format!("{}(\n    {}\n)\n", f.name, inputs.join(",\n    "));
    }
    let reader = Reader::new(module, f);
    let before = text.len();
    for (id, node) in f.iter() {
        let hidden = matches!(node.op, Op::Input(_)) || reader.literal(Value { node: id, result: 0 }).is_some();
        if !hidden && !reader.inlined[id.0 as usize] {
            writeln!(text, "  {}", reader.line(id)).unwrap();
        }
    }
    for (name, value) in &f.results {
        if let Some(name) = name
            && ![name.to_string(), format!("{name}'")].contains(&reader.names[value.node.0 as usize][value.result as usize])
        {
            let prime = if f.inputs.iter().any(|i| i.name == *name) { "'" } else { "" };
            writeln!(text, "  {name}{prime} = {}", reader.name(*value)).unwrap();
        }
    }
    // What does nothing needs no words.
    if text.len() == before { String::new() } else { text }
}

/// Functions worth a name.
fn series(op: ScalarOp) -> bool {
    use ScalarOp::*;
    matches!(op, Exp | Expm1 | Log | Log1p | Sin | Cos | Atan | Tanh | Sigmoid | Erf | Sqrt)
}

/// Whether it is another value, or a number, under a new name or type.
fn alias(e: &Expr) -> bool {
    match e {
        Expr::Cast(DType::F32 | DType::F64, from) => alias(from),
        Expr::Load { index, otherwise, .. } => otherwise.is_none() && index.is_empty(),
        Expr::Const(_) | Expr::Index(_) | Expr::Holds(_) | Expr::Op(..) | Expr::Cast(..) => false,
    }
}

fn signature(name: &str, ty: &Type) -> String {
    let shape: Vec<String> = ty.shape.iter().map(|s| s.to_string()).collect();
    if shape.is_empty() { name.into() } else { format!("{name}[{}]", shape.join(", ")) }
}

struct Reader<'a> {
    module: &'a Module,
    f: &'a Function,
    /// What each result of each node is called.
    names: Vec<Vec<String>>,
    /// Whether a node stands where it is used.
    inlined: Vec<bool>,
    /// Which results of each node something reads.
    used: Vec<Vec<bool>>,
}

impl Reader<'_> {
    fn new<'a>(module: &'a Module, f: &'a Function) -> Reader<'a> {
        let mut used: Vec<Vec<bool>> = f.nodes.iter().map(|n| vec![false; n.types.len()]).collect();
        let read = f.nodes.iter().flat_map(|n| &n.operands).chain(f.results.iter().map(|(_, v)| v));
        read.for_each(|v| used[v.node.0 as usize][v.result as usize] = true);
        let mut uses = vec![0; f.nodes.len()];
        let mut by_index = vec![true; f.nodes.len()];
        for node in &f.nodes {
            let Op::Nest(nest) = &node.op else {
                node.operands.iter().for_each(|v| by_index[v.node.0 as usize] = false);
                continue;
            };
            nest.body.visit(&mut |e| {
                if let Expr::Load { operand, index, otherwise } = e {
                    let from = node.operands[*operand].node.0 as usize;
                    uses[from] += 1;
                    by_index[from] &= otherwise.is_none() && index.iter().all(|i| matches!(i, Index::Affine(_)));
                }
            });
        }
        f.results.iter().for_each(|(_, v)| by_index[v.node.0 as usize] = false);
        let inlined = f.iter().map(|(id, node)| {
            let Op::Nest(nest) = &node.op else { return false };
            let (mut parts, mut slow) = (0, false);
            nest.body.visit(&mut |e| {
                parts += 1;
                slow |= matches!(e, Expr::Op(op, _) if series(*op));
            });
            if by_index[id.0 as usize] && nest.fold == Fold::None && nest.guards.is_empty() && alias(&nest.body) {
                return true;
            }
            if node.name.is_some() && (slow || nest.fold != Fold::None) {
                return false;
            }
            let plain = nest.fold.results() == 1 && (nest.fold != Fold::None || nest.guards.is_empty());
            plain && uses[id.0 as usize] == 1 && by_index[id.0 as usize] && parts <= LARGEST
        });
        let inlined = inlined.collect();
        let mut taken: BTreeSet<String> = f.inputs.iter().map(|i| i.name.to_string()).collect();
        let mut names: Vec<Vec<String>> = f.nodes.iter().map(|n| vec![String::new(); n.types.len()]).collect();
        // Results come first to their names, then bindings.
        for (name, v) in &f.results {
            if let Some(name) = name
                && !matches!(f.node(v.node).op, Op::Input(_))
                && names[v.node.0 as usize][v.result as usize].is_empty()
                && let Some(name) = [name.to_string(), format!("{name}'")].into_iter().find(|n| taken.insert(n.clone()))
            {
                names[v.node.0 as usize][v.result as usize] = name;
            }
        }
        for (id, node) in f.iter() {
            for (result, name) in names[id.0 as usize].iter_mut().enumerate().filter(|(_, n)| n.is_empty()) {
                let base = match (&node.op, &node.name) {
                    (Op::Input(n), _) => {
                        *name = f.inputs[*n].name.to_string();
                        continue;
                    }
                    (_, Some(own)) => own.to_string(),
                    (Op::Nest(Nest { body: Expr::Op(op, _), fold: Fold::None, .. }), None) if series(*op) => op.name().into(),
                    (_, None) => format!("v{}", id.0),
                };
                // What is not read takes no name from others.
                if !used[id.0 as usize][result] {
                    *name = base;
                    continue;
                }
                let first = !used[id.0 as usize][..result].contains(&true);
                let mut candidates = std::iter::once(base.clone()).chain((1..).map(|n| format!("{base}_{n}"))).skip(if first { 0 } else { result });
                *name = candidates.find(|n| taken.insert(n.clone())).unwrap_or(base);
            }
        }
        Reader { module, f, names, inlined, used }
    }

    fn name(&self, v: Value) -> &str {
        &self.names[v.node.0 as usize][v.result as usize]
    }

    /// A literal of one element.
    fn literal(&self, v: Value) -> Option<Scalar> {
        match &self.f.node(v.node).op {
            Op::Constant(values) if values.len() == 1 => Some(values[0]),
            _ => None,
        }
    }

    fn line(&self, id: NodeId) -> String {
        let node = self.f.node(id);
        let targets: Vec<&str> = (0..node.types.len()).map(|r| self.name(Value { node: id, result: r as u32 })).collect();
        let list = |values: &[Value]| values.iter().map(|v| self.name(*v)).collect::<Vec<_>>().join(", ");
        let head = targets.join(", ");
        match &node.op {
            Op::Nest(nest) => {
                let mut vars: Vec<String> = Vec::new();
                nest.outs.iter().for_each(|s| vars.push(index_name(self.module, s, &vars)));
                let index = if vars.is_empty() { String::new() } else { format!("[{}]", vars.join(",")) };
                let head: Vec<String> =
                    targets.iter().zip(&self.used[id.0 as usize]).filter(|(_, used)| **used).map(|(t, _)| format!("{t}{index}")).collect();
                let wheres = match nest.fold {
                    Fold::None if !nest.guards.is_empty() => format!(" where {}", guards(&nest.guards, &vars)),
                    _ => String::new(),
                };
                let outs: Vec<Affine> = (0..vars.len()).map(Affine::var).collect();
                let only = self.used[id.0 as usize] == [true, false];
                let fold = match nest.fold {
                    Fold::ArgMax if only => Fold::Max,
                    Fold::ArgMin if only => Fold::Min,
                    fold => fold,
                };
                let nest = Nest { fold, ..nest.clone() };
                format!("{} = {}{wheres}", head.join(", "), self.nest(node, &nest, &outs, &mut vars, 0))
            }
            Op::Scatter(scatter) => {
                let mut vars: Vec<String> = Vec::new();
                scatter.points.iter().for_each(|s| vars.push(index_name(self.module, s, &vars)));
                let base = self.name(node.operands[0]);
                let index = self.index(node, &scatter.index, &vars);
                let points = vars.join(", ");
                let value = self.expr(node, &scatter.value, &mut vars, 0);
                let wheres = if scatter.guards.is_empty() { String::new() } else { format!(" where {}", guards(&scatter.guards, &vars)) };
                format!("{head} = {base}, and [{index}] {} {value} for each {points}{wheres}", scatter.fold.name())
            }
            Op::Call(callee) => format!("{head} = {}({})", self.module.function(*callee).name, list(&node.operands)),
            Op::Scan(scan) => format!("{head} = scan over {} of {}({})", scan.length, self.module.function(scan.body).name, list(&node.operands)),
            Op::Place(_) => format!("{head} = place({})", list(&node.operands)),
            Op::Sort { .. } => format!("{head} = sort({})", list(&node.operands)),
            Op::Reshape => format!("{} = reshape({})", signature(&head, &node.types[0]), list(&node.operands)),
            Op::StopGradient => format!("{head} = stop_gradient({})", list(&node.operands)),
            Op::Check(message) => format!("{head} = {} checked by {}: {message}", self.name(node.operands[0]), self.name(node.operands[1])),
            Op::Input(_) | Op::Constant(_) => {
                format!("{head} = {}", crate::ir::print::node(self.module, self.f, id).split_once(" = ").map_or("", |p| p.1))
            }
        }
    }

    /// The nest's formula at a point given in the line's variables.
    fn nest(&self, node: &Node, nest: &Nest, at: &[Affine], vars: &mut Vec<String>, least: u8) -> String {
        let first = vars.len();
        for size in &nest.reds {
            vars.push(index_name(self.module, size, vars));
        }
        let of = |v: Var| at.get(v).cloned().unwrap_or_else(|| Affine::var(first + v - at.len()));
        let body = nest.body.substitute(&of);
        let all: Vec<Guard> = nest.guards.iter().map(|g| g.substitute(&of)).collect();
        let word = match nest.fold {
            Fold::None => return self.expr(node, &body, vars, least),
            fold if fold.multiplies() => "sum",
            fold => fold.name(),
        };
        let wheres = if all.is_empty() { String::new() } else { format!(" where {}", guards(&all, vars)) };
        let reds = vars[first..first + nest.reds.len()].join(",");
        let inner = self.expr(node, &body, vars, 0);
        format!("{word}[{reds}{wheres}]({inner})")
    }

    fn index(&self, node: &Node, index: &[Index], vars: &[String]) -> String {
        let one = |i: &Index| match i {
            Index::Affine(a) => affine(a, vars),
            Index::Gather(e) => self.expr(node, e, &mut vars.to_vec(), 0),
        };
        index.iter().map(one).collect::<Vec<_>>().join(",")
    }

    fn load(&self, node: &Node, operand: usize, index: &[Index], otherwise: Option<Scalar>, vars: &mut Vec<String>, least: u8) -> String {
        let value = node.operands[operand];
        if let Some(literal) = self.literal(value) {
            return number(literal);
        }
        let from = self.f.node(value.node);
        if let (true, Op::Nest(nest)) = (self.inlined[value.node.0 as usize], &from.op) {
            let at = index.iter().map(|i| match i {
                Index::Affine(a) => a.clone(),
                Index::Gather(_) => unreachable!("only affine loads are inlined"),
            });
            return self.nest(from, nest, &at.collect::<Vec<_>>(), vars, least);
        }
        let mut inside = self.index(node, index, vars);
        if let Some(value) = otherwise {
            write!(inside, ", else {}", number(value)).unwrap();
        }
        let name = self.name(value);
        if inside.is_empty() { name.into() } else { format!("{name}[{inside}]") }
    }

    /// The text, in parentheses if it binds less than `least`.
    fn expr(&self, node: &Node, e: &Expr, vars: &mut Vec<String>, least: u8) -> String {
        use ScalarOp::*;
        let wrap = |own: u8, text: String| if own < least { format!("({text})") } else { text };
        match e {
            Expr::Const(c) => wrap(if c.to_f64() < 0.0 { 6 } else { 9 }, number(*c)),
            Expr::Load { operand, index, otherwise } => self.load(node, *operand, index, *otherwise, vars, least),
            Expr::Index(a) => {
                let sum = a.terms.len() + a.constant.terms().len();
                wrap(if sum > 1 { 4 } else { 9 }, affine(a, vars))
            }
            Expr::Holds(all) => guards(all, vars),
            Expr::Cast(to, from) => {
                let bool = matches!(**from, Expr::Holds(_) | Expr::Op(Eq | Ne | Lt | Le | And | Or | Not, _));
                match (to, bool) {
                    (DType::F32 | DType::F64, false) => self.expr(node, from, vars, least),
                    (_, true) => format!("[{}]", self.expr(node, from, vars, 0)),
                    (DType::I64 | DType::Bool, false) => format!("{to}({})", self.expr(node, from, vars, 0)),
                }
            }
            Expr::Op(op, args) => {
                let own = precedence(*op);
                let mut arg = |n: usize, least: u8| self.expr(node, &args[n], vars, least);
                let is = |n: usize, x: f64| matches!(args[n], Expr::Const(c) if c.to_f64() == x && c.dtype() != DType::Bool);
                match op {
                    Neg => wrap(own, format!("-{}", arg(0, 5))),
                    Mul => wrap(own, format!("{}*{}", arg(0, 5), arg(1, 5))),
                    Div => wrap(own, format!("{} / {}", arg(0, 5), arg(1, 6))),
                    Add => wrap(own, format!("{} + {}", arg(0, 4), arg(1, 4))),
                    Sub => wrap(own, format!("{} - {}", arg(0, 4), arg(1, 5))),
                    Pow => wrap(own, format!("{}^{}", arg(0, 8), arg(1, 8))),
                    // An index stands before what it is compared with.
                    Eq if matches!((&args[0], &args[1]), (Expr::Load { .. }, Expr::Index(_))) => wrap(own, format!("{} == {}", arg(1, 4), arg(0, 4))),
                    Eq | Ne | Lt | Le => wrap(own, format!("{} {} {}", arg(0, 4), op.name(), arg(1, 4))),
                    And | Or => wrap(own, format!("{} {} {}", arg(0, own), op.name(), arg(1, own))),
                    Fma => wrap(4, format!("{}*{} + {}", arg(0, 5), arg(1, 5), arg(2, 4))),
                    Select if is(1, 1.0) && is(2, 0.0) => format!("[{}]", arg(0, 0)),
                    Select if is(2, 0.0) => wrap(5, format!("[{}]*{}", arg(0, 0), arg(1, 5))),
                    Select if least > 0 => format!("(if {} then {} else {})", arg(0, 0), arg(1, 0), arg(2, 0)),
                    Select => format!("if {} then {} else {}", arg(0, 0), arg(1, 0), arg(2, 0)),
                    Max => format!("max({}, {})", arg(0, 0), arg(1, 0)),
                    Min => format!("min({}, {})", arg(0, 0), arg(1, 0)),
                    Abs => format!("|{}|", arg(0, 0)),
                    _ => format!("{}({})", op.name(), (0..args.len()).map(|n| arg(n, 0)).collect::<Vec<_>>().join(", ")),
                }
            }
        }
    }
}

fn guards(guards: &[Guard], vars: &[String]) -> String {
    if guards.is_empty() { "true".into() } else { guards.iter().map(|g| guard(g, vars)).collect::<Vec<_>>().join(" and ") }
}

fn number(value: Scalar) -> String {
    let text = scalar(value);
    let text = text.strip_suffix("f64").unwrap_or(&text);
    text.strip_suffix(".0").unwrap_or(text).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::parse;
    use crate::passes::algebra::normalise;

    fn check(text: &str, expected: &str) {
        let module = parse::module(text).unwrap();
        crate::ir::verify::verify(&module).unwrap_or_else(|e| panic!("{}", e.join("\n")));
        let normal = normalise(&module);
        assert_eq!(formulas(&normal, normal.functions.last().unwrap()).trim(), expected.trim(), "\n{}", print::module(&normal));
    }

    /// What reverse mode writes down, step by step, reads as the derivative on paper.
    #[test]
    fn gradients_read_like_a_textbook() {
        check(
            "dim B >= 1
fn @mse(w: f32, x: f32[B], t: f32[B]) {
  %one: f32 = constant [1.0]
  %d[b]: f32[B] = %w * %x[b] - %t[b]
  %n: f32 = %one / f32(index(B))
  %dd[b]: f32[B] = 2.0 * %d[b] ^ 1.0 * %n
  %g: f32 = sum[b < B](%dd[b] * %x[b])
  return dw: %g
}",
            "mse(w, x[B], t[B])
  dw = sum[b](2*(w*x[b] - t[b])*x[b]) / B",
        );
        check(
            "dim B >= 1
dim I >= 1
dim O >= 1
fn @linear.bwd(x: f32[B, I], W: f32[O, I], dy: f32[B, O]) {
  %1[o, i]: f32[O, I] = dot[b < B](%dy[b, o] * %x[b, i])
  %2[b, i]: f32[B, I] = dot[o < O](%dy[b, o] * %W[o, i])
  %3[o]: f32[O] = sum[b < B](%dy[b, o])
  return dW: %1, dx: %2, db: %3
}",
            "linear.bwd(x[B, I], W[O, I], dy[B, O])
  dW[o,i] = sum[b](dy[b,o]*x[b,i])
  dx[b,i] = sum[o](dy[b,o]*W[o,i])
  db[o] = sum[b](dy[b,o])",
        );
        check(
            "dim B >= 1
fn @ce(z: f32[B, 10], label: i64[B]) {
  %m[b]: f32[B] = max[k < 10](%z[b, k])
  %e[b, k]: f32[B, 10] = exp(%z[b, k] - %m[b])
  %s[b]: f32[B] = sum[k < 10](%e[b, k])
  %one: f32 = constant [1.0]
  %dl: f32 = %one / f32(index(B))
  %dpick[b]: f32[B] = -%dl
  %dlog[b]: f32[B] = %dl * (1.0 / %s[b])
  %d1[b, k]: f32[B, 10] = %dlog[b] * %e[b, k]
  %d2[b, k]: f32[B, 10] = select(k == %label[b], %dpick[b], 0.0)
  %d[b, k]: f32[B, 10] = %d1[b, k] + %d2[b, k]
  return dz: %d
}",
            "ce(z[B, 10], label[B])
  m[b] = max[i](z[b,i])
  e[b,i] = exp(z[b,i] - m[b])
  s[b] = sum[i](e[b,i])
  dz[b,i] = (e[b,i] / s[b] - [i == label[b]]) / B",
        );
    }
}
