//! Pulling a cotangent back through a scalar expression evaluated over a box of points: the heart of every nest's and scatter's derivative.
//!
//! In: a box, guards, an expression over loads of operands, and the expression's own cotangent at a point. Out: for every load of an active
//! operand, a tensor that is its contribution to the operand's cotangent: a nest where the load's index map solves, else a scattered sum.

use crate::grad::bounds::Bounds;
use crate::grad::expr::{cast, depends_from, div, is_zero, literal, mul, neg, renumber, rewrite, rewrite_index, select, zero};
use crate::grad::solve::solve;
use crate::grad::{expr, phases, table};
use crate::ir::{
    Affine, DType, Dim, Expr, Fold, Function, Guard, Index, Nest, Op, Relation, Scalar, ScalarOp, Scatter, ScatterFold, Size, Type, Value, load_at,
};
use crate::span::Span;

/// A load met in the reverse sweep.
struct Met {
    operand: usize,
    index: Vec<Index>,
    /// It has a value for outside: a point may load no element at all.
    partial: bool,
    /// Its cotangent.
    adj: Expr,
}

/// A box of points and the operands that expressions over it load.
pub struct Points<'a> {
    /// The dims of the module.
    pub dims: &'a [Dim],
    /// Sizes of the variables, outputs first.
    pub ranges: Vec<Size>,
    /// How many are outputs.
    pub outs: usize,
    /// Which points there are.
    pub guards: Vec<Guard>,
    /// What loads refer to.
    pub operands: Vec<Value>,
    /// Which operands' cotangents are wanted.
    pub active: Vec<bool>,
    /// Products of two factors are contractions.
    pub dot: bool,
    /// The forward node's.
    pub span: Span,
}

impl Points<'_> {
    /// The operand's number, added if it is new.
    pub fn operand(&mut self, value: Value) -> usize {
        self.operands.push(value);
        self.operands.len() - 1
    }

    /// The contributions to the operands' cotangents: operand number and tensor. `adj` is the cotangent of `body` at a point, `value` the body's
    /// value if it can be loaded.
    pub fn pull(&self, f: &mut Function, body: &Expr, value: Option<&Expr>, adj: Expr) -> Vec<(usize, Value)> {
        let mut loads = vec![];
        self.walk(f, body, value, adj, &mut loads);
        loads.into_iter().map(|l| (l.operand, self.contribution(f, l))).collect()
    }

    fn dtype(&self, f: &Function, e: &Expr) -> DType {
        e.dtype(&|k| f.ty(self.operands[k]).dtype).unwrap_or_else(|| panic!("ill-typed expression {e:?}"))
    }

    /// Whether the expression loads an active operand where that matters.
    pub fn depends(&self, e: &Expr) -> bool {
        match e {
            Expr::Load { operand, .. } => self.active[*operand],
            Expr::Op(_, args) => args.iter().any(|a| self.depends(a)),
            Expr::Cast(_, a) => self.depends(a),
            Expr::Const(_) | Expr::Index(_) | Expr::Holds(_) => false,
        }
    }

    /// Reverse sweep over the expression: the loads met and their cotangents, equal loads together.
    fn walk(&self, f: &Function, e: &Expr, value: Option<&Expr>, adj: Expr, loads: &mut Vec<Met>) {
        if is_zero(&adj) || !self.depends(e) {
            return;
        }
        match e {
            Expr::Load { operand, index, otherwise } => {
                let dtype = f.ty(self.operands[*operand]).dtype;
                let partial = otherwise.is_some();
                match loads.iter_mut().find(|l| l.operand == *operand && l.index == *index && l.partial == partial) {
                    Some(met) => met.adj = expr::add(dtype, met.adj.clone(), adj),
                    None => loads.push(Met { operand: *operand, index: index.clone(), partial, adj }),
                }
            }
            Expr::Op(op, args) => {
                let dtype = self.dtype(f, e);
                if !dtype.is_float() {
                    return;
                }
                if *op == ScalarOp::Mul && args[0] == args[1] {
                    let twice = mul(crate::ir::float(dtype, 2.0), args[0].clone());
                    return self.walk(f, &args[0], None, mul(adj, twice), loads);
                }
                for (k, arg) in args.iter().enumerate() {
                    if self.depends(arg)
                        && let Some(adj) = table::cotangent(*op, args, k, value.unwrap_or(e), adj.clone(), dtype)
                    {
                        self.walk(f, arg, None, adj, loads);
                    }
                }
            }
            Expr::Cast(to, a) => {
                let from = self.dtype(f, a);
                if from.is_float() && to.is_float() {
                    self.walk(f, a, None, cast(*to, from, adj), loads);
                }
            }
            Expr::Const(_) | Expr::Index(_) | Expr::Holds(_) => {}
        }
    }

    /// Sum over all points that load an element, for every element of the operand.
    fn contribution(&self, f: &mut Function, load: Met) -> Value {
        let ty = f.ty(self.operands[load.operand]).clone();
        let axes: Vec<(usize, Affine)> = load
            .index
            .iter()
            .enumerate()
            .filter_map(|(k, i)| match i {
                Index::Affine(a) => Some((k, a.clone())),
                Index::Gather(_) => None,
            })
            .collect();
        let gathered = axes.len() < load.index.len();
        let index: Vec<Affine> = axes.iter().map(|(_, a)| a.clone()).collect();
        let shape: Vec<Size> = axes.iter().map(|(k, _)| ty.shape[*k].clone()).collect();
        // A gathered axis becomes a comparison where the other axes leave no point to search for: one-hot; else points are scattered.
        let Some(s) = solve(self.dims, &self.ranges, self.outs, &self.guards, &index, &shape).filter(|s| !gathered || s.reds.is_empty()) else {
            return self.scatter(f, &ty, load);
        };
        // The solution's variables are the affine axes, then the reductions; here they are all axes, then the reductions.
        let put = |v: usize| Affine::var(if v < axes.len() { axes[v].0 } else { v - axes.len() + ty.shape.len() });
        let ranges: Vec<Size> = ty.shape.iter().chain(&s.reds).cloned().collect();
        let bounds = Bounds::new(self.dims, &ranges);
        let old = |v: usize| s.old[v].substitute(&put);
        let of = |e: &Expr| rewrite(e, &old, &|k| k, &|a| bounds.simplify(&a));
        let hit = load.index.iter().enumerate().filter_map(|(k, i)| match i {
            Index::Affine(_) => None,
            Index::Gather(e) => Some(expr::binary(ScalarOp::Eq, of(e), Expr::Index(Affine::var(k)))),
        });
        let body = match hit.reduce(|a, b| expr::binary(ScalarOp::And, a, b)) {
            Some(hit) => masked(&of(&load.adj), &|e| select(hit.clone(), e.clone(), zero(ty.dtype)), Scalar::float(ty.dtype, 0.0)),
            None => of(&load.adj),
        };
        let guards = s.guards.iter().map(|g| g.substitute(&put)).collect();
        let nest = Nest { outs: ty.shape, reds: s.reds, guards, fold: Fold::Sum, body };
        phases::sum(self.dims, f, nest, &self.operands, self.dot, self.span)
    }

    /// Every point adds its share at the element that it loads.
    fn scatter(&self, f: &mut Function, ty: &Type, load: Met) -> Value {
        let base = zeros(f, ty, self.span);
        let bounds = Bounds::new(self.dims, &self.ranges);
        let mut guards = self.guards.clone();
        let mut inside: Vec<Expr> = vec![];
        for (i, size) in load.index.iter().zip(&ty.shape) {
            match i {
                Index::Affine(a) => {
                    let low = Guard { expr: a.clone(), relation: Relation::NonNegative };
                    for guard in [low, Guard::lt(a, &Affine::constant(size.clone()))] {
                        if !bounds.holds(&guard) && !guards.contains(&guard) {
                            guards.push(guard);
                        }
                    }
                }
                Index::Gather(e) => {
                    let (low, high) = (Expr::Const(Scalar::i64(0)), Expr::Index(Affine::constant(size.clone())));
                    inside.push(expr::binary(ScalarOp::Le, low, (**e).clone()));
                    inside.push(expr::binary(ScalarOp::Lt, (**e).clone(), high));
                }
            }
        }
        // A point that loads no element, outside or on the side of a select that is not taken, adds zero to the first one.
        let inside = inside.into_iter().reduce(|a, b| expr::binary(ScalarOp::And, a, b)).filter(|_| load.partial);
        let within = |e: &Expr, none: Expr| match &inside {
            Some(inside) => select(inside.clone(), e.clone(), none),
            None => e.clone(),
        };
        let index = load
            .index
            .iter()
            .map(|i| match i {
                Index::Affine(a) => Index::Affine(a.clone()),
                Index::Gather(e) => Index::Gather(Box::new(masked(&load.adj, &|_| within(e, Expr::Const(Scalar::i64(0))), Scalar::i64(0)))),
            })
            .collect();
        let value = masked(&load.adj, &|e| within(e, zero(ty.dtype)), Scalar::float(ty.dtype, 0.0));
        let scatter = Scatter { shape: ty.shape.clone(), points: self.ranges.clone(), guards, index, value, fold: ScatterFold::Sum };
        push_scatter(f, scatter, base, &self.operands, ty.dtype, self.span)
    }
}

/// `of` the product inside the selects with a zero side that are outermost in `adj`; `none` on the zero sides.
fn masked(adj: &Expr, of: &dyn Fn(&Expr) -> Expr, none: Scalar) -> Expr {
    let zero = || Expr::Const(none);
    match adj {
        Expr::Op(ScalarOp::Select, args) if is_zero(&args[2]) => select(args[0].clone(), masked(&args[1], of, none), zero()),
        Expr::Op(ScalarOp::Select, args) if is_zero(&args[1]) => select(args[0].clone(), zero(), masked(&args[2], of, none)),
        _ => of(adj),
    }
}

/// A tensor of zeros.
pub fn zeros(f: &mut Function, ty: &Type, span: Span) -> Value {
    f.nest(Nest::map(ty.shape.clone(), Expr::Const(Scalar::float(ty.dtype, 0.0))), [], span)
}

/// Appends a nest; only the operands that it loads are kept, each once.
pub fn push_nest(f: &mut Function, nest: Nest, operands: &[Value], span: Span) -> Value {
    let (used, number) = compact(&[&nest.body], &[], operands);
    let body = renumber(&nest.body, &|k| number[k]);
    f.nest(Nest { body, ..nest }, used, span)
}

/// Appends a scatter onto `base` whose expressions load `operands`, numbered from 0 without the base.
pub fn push_scatter(f: &mut Function, s: Scatter, base: Value, operands: &[Value], dtype: DType, span: Span) -> Value {
    let (used, number) = compact(&[&s.value], &s.index, operands);
    let of = |k: usize| number[k] + 1;
    let index = s.index.iter().map(|i| rewrite_index(i, &Affine::var, &of, &|a| a)).collect();
    let value = renumber(&s.value, &of);
    let ty = Type::new(dtype, s.shape.clone());
    let all: Vec<Value> = std::iter::once(base).chain(used).collect();
    f.push(Op::Scatter(Scatter { index, value, ..s }), all, ty, span)
}

/// Operands in use in the order in which they appear, and every operand's new number.
fn compact(exprs: &[&Expr], index: &[Index], operands: &[Value]) -> (Vec<Value>, Vec<usize>) {
    let mut used: Vec<Value> = vec![];
    let mut number = vec![0; operands.len()];
    let mut see = |e: &Expr| match e {
        Expr::Load { operand, .. } => {
            let value = operands[*operand];
            number[*operand] = used.iter().position(|u| *u == value).unwrap_or_else(|| {
                used.push(value);
                used.len() - 1
            });
        }
        Expr::Const(_) | Expr::Index(_) | Expr::Holds(_) | Expr::Op(..) | Expr::Cast(..) => {}
    };
    for i in index {
        match i {
            Index::Affine(_) => {}
            Index::Gather(e) => e.visit(&mut see),
        }
    }
    exprs.iter().for_each(|e| e.visit(&mut see));
    (used, number)
}

/// A product taken apart.
#[derive(Default)]
struct Product {
    negative: bool,
    over: Vec<Expr>,
    under: Vec<Expr>,
}

impl Product {
    fn of(e: Expr) -> Product {
        let mut p = Product::default();
        p.take(e);
        p
    }

    fn take(&mut self, e: Expr) {
        match e {
            Expr::Op(ScalarOp::Mul, args) => args.into_iter().for_each(|a| self.take(a)),
            Expr::Op(ScalarOp::Neg, mut args) => {
                self.negative = !self.negative;
                self.take(args.remove(0));
            }
            Expr::Op(ScalarOp::Div, mut args) => {
                self.under.push(args.remove(1));
                self.take(args.remove(0));
            }
            e if literal(&e) == Some(1.0) => {}
            e => self.over.push(e),
        }
    }

    fn build(self, one: Expr) -> Expr {
        let product = self.over.into_iter().fold(one, mul);
        let product = self.under.into_iter().fold(product, |a, b| Expr::op(ScalarOp::Div, [a, b]));
        if self.negative { neg(product) } else { product }
    }
}

fn is_load(e: &Expr) -> bool {
    match e {
        Expr::Load { .. } => true,
        Expr::Cast(_, a) => is_load(a),
        Expr::Const(_) | Expr::Index(_) | Expr::Holds(_) | Expr::Op(..) => false,
    }
}

/// Appends the sum of the nest's body over its reductions in normal form: no fold where nothing is reduced, the operand itself where the nest
/// only copies it, a contraction where the body is a product of two loads, factors that the reductions do not touch outside.
pub fn sum(f: &mut Function, nest: Nest, operands: &[Value], dot: bool, span: Span) -> Value {
    let rank = nest.outs.len();
    if nest.reds.is_empty() {
        if nest.guards.is_empty()
            && let Expr::Load { operand, index, .. } = &nest.body
            && f.ty(operands[*operand]).shape == nest.outs
            && index.iter().enumerate().all(|(k, i)| matches!(i, Index::Affine(a) if a.as_var() == Some(k)))
        {
            return operands[*operand];
        }
        return push_nest(f, Nest { fold: Fold::None, ..nest }, operands, span);
    }
    let dtype = nest.body.dtype(&|k| f.ty(operands[k]).dtype).unwrap_or_else(|| panic!("ill-typed nest {nest:?}"));
    let one = || crate::ir::float(dtype, 1.0);
    let all = Product::of(nest.body.clone());
    let mut inner = Product::default();
    let mut outer = Product::default();
    let mut literals = vec![];
    // Guards may leave no point at all: then the sum is zero, whatever the factors are, and they stay inside.
    let kept = !nest.guards.is_empty();
    for e in all.over {
        if literal(&e).is_some() {
            literals.push(e);
        } else if kept || depends_from(&e, rank) {
            inner.over.push(e);
        } else {
            outer.over.push(e);
        }
    }
    for e in all.under {
        if kept || depends_from(&e, rank) { inner.under.push(e) } else { outer.under.push(e) }
    }
    if !inner.over.iter().chain(&inner.under).any(|e| depends_from(e, rank)) {
        // Nothing varies: the sum counts points, and stays one nest.
        return push_nest(f, Nest { fold: Fold::Sum, ..nest }, operands, span);
    }
    let contraction = inner.under.is_empty() && (inner.over.len() == 2 && inner.over.iter().all(is_load) || dot && inner.over.len() >= 2);
    // Literals and signs move out only to leave a contraction bare.
    if contraction || inner.over.iter().all(is_load) && inner.over.len() == 1 && inner.under.is_empty() && !outer.over.is_empty() {
        outer.over.splice(0..0, literals);
        outer.negative = all.negative;
    } else {
        inner.over.splice(0..0, literals);
        inner.negative = all.negative;
    }
    let fold = if contraction { Fold::Dot } else { Fold::Sum };
    let body = if contraction {
        let first = inner.over.remove(0);
        Expr::op(ScalarOp::Mul, [first, inner.build(one())])
    } else {
        inner.build(one())
    };
    let folded = push_nest(f, Nest { fold, body, outs: nest.outs.clone(), ..nest }, operands, span);
    if outer.over.is_empty() && outer.under.is_empty() && !outer.negative {
        return folded;
    }
    let mut operands = operands.to_vec();
    operands.push(folded);
    let product = Product { over: std::iter::once(load_at(operands.len() - 1, 0..rank)).chain(outer.over).collect(), ..outer };
    let body = product.build(one());
    push_nest(f, Nest::map(nest.outs, body), &operands, span)
}

/// The cotangent `dy` at the variables `vars`, as an expression over `points`: literals and reciprocals of scalars are put in directly.
pub fn cotangent(f: &Function, points: &mut Points, dy: Value, vars: impl IntoIterator<Item = usize>) -> Expr {
    let node = f.node(dy.node);
    if let Op::Nest(n) = &node.op
        && n.guards.is_empty()
        && n.fold == Fold::None
    {
        if let Expr::Const(_) = n.body {
            return n.body.clone();
        }
        if let Expr::Op(ScalarOp::Div, args) = &n.body
            && n.outs.is_empty()
            && literal(&args[0]) == Some(1.0)
            && small(&args[1])
        {
            let numbers: Vec<usize> = node.operands.iter().map(|v| points.operand(*v)).collect();
            let under = renumber(&args[1], &|k| numbers[k]);
            points.active.resize(points.operands.len(), false);
            return div(args[0].clone(), under);
        }
    }
    if let Op::Constant(elements) = &node.op
        && elements.len() == 1
        && node.types[0].shape.is_empty()
    {
        return Expr::Const(elements[0]);
    }
    let k = points.operand(dy);
    points.active.resize(points.operands.len(), false);
    load_at(k, vars)
}

fn small(e: &Expr) -> bool {
    match e {
        Expr::Const(_) | Expr::Load { .. } | Expr::Index(_) => true,
        Expr::Cast(_, a) => small(a),
        Expr::Holds(_) | Expr::Op(..) => false,
    }
}
