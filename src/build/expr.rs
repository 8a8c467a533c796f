//! Tensor expressions into nodes. A chain of elementwise operations in one source expression is one nest.

use super::element::{Scope, cast, index_value, operand};
use super::frame::{Body, Name};
use crate::check::typed::{Expr, ExprKind, InstanceId, Type as Typed, Weight, Wrt};
use crate::grad;
use crate::ir::{self, Affine, Base, Index, Nest, Node, Op, Piece, Place, Scalar, ScalarOp, Scatter, Size, Start, Type, Value, load_at};
use crate::span::Span;

/// The graph's type of a typed expression.
pub(super) fn ty(t: &Typed) -> Type {
    Type::new(t.dtype, t.shape.clone())
}

impl Body<'_> {
    /// The value of an expression with one result.
    pub fn one(&mut self, e: &Expr) -> Value {
        self.expr(e)[0]
    }

    /// The values of an expression, one a result.
    pub fn expr(&mut self, e: &Expr) -> Vec<Value> {
        let span = e.span;
        let value = match &e.kind {
            ExprKind::Local(l) => self.get(Name::Local(l.0 as usize)),
            ExprKind::Weight(w) => self.get(Name::Weight(w.0 as usize)),
            ExprKind::Const(c) => self.constant(*c, span),
            ExprKind::Size(n) => match n.as_const() {
                Some(n) => self.constant(Scalar::i64(n), span),
                None => self.f().nest(Nest::map(vec![], index_value(Affine::constant(n.clone()))), [], span),
            },
            ExprKind::Comprehension { vars, groups, element } => {
                let value = self.comprehension(vars, element, span);
                if groups.iter().all(|g| *g == 1) { value } else { self.f().push(Op::Reshape, [value], ty(&e.types[0]), span) }
            }
            ExprKind::Op(..) | ExprKind::Cast(..) => {
                let mut operands = vec![];
                let body = self.chain(e, e.types[0].shape.len(), &mut operands);
                self.f().nest(Nest::map(e.types[0].shape.clone(), body), operands, span)
            }
            ExprKind::Project(of, k) => self.expr(of)[*k],
            ExprKind::Call { instance, args, weights, site } => return self.call(*instance, args, weights, *site, span),
            ExprKind::Reshape(a) => {
                let a = self.one(a);
                self.f().push(Op::Reshape, [a], ty(&e.types[0]), span)
            }
            ExprKind::StopGradient(a) => {
                let a = self.one(a);
                let f = self.f();
                let known = f.iter().find(|(_, node)| node.op == Op::StopGradient && node.operands == [a]).map(|(node, _)| Value { node, result: 0 });
                known.unwrap_or_else(|| f.push(Op::StopGradient, [a], ty(&e.types[0]), span))
            }
            ExprKind::Concat { parts, axis } => self.concat(&e.types[0], parts, *axis, span),
            ExprKind::Write { base, piece, start } => self.write(&e.types[0], base, piece, start, span),
            ExprKind::Place { fill, pieces } => {
                let operands: Vec<Value> = pieces.iter().map(|(a, _, _)| self.one(a)).collect();
                let pieces = pieces.iter().map(|(a, start, stride)| Piece {
                    shape: a.types[0].shape.clone(),
                    start: start.iter().cloned().map(Start::Size).collect(),
                    stride: stride.clone(),
                });
                let place = Place { shape: e.types[0].shape.clone(), base: Base::Fill(*fill), pieces: pieces.collect() };
                self.f().push(Op::Place(place), operands, ty(&e.types[0]), span)
            }
            ExprKind::Scatter { .. } => self.scatter(e),
            ExprKind::Sort { of, descending } => {
                let of = self.one(of);
                let types = e.types.iter().map(ty).collect();
                let op = Op::Sort { descending: *descending };
                let node = self.f().push_node(Node { op, operands: vec![of], types, name: None, span });
                return vec![Value { node, result: 0 }, Value { node, result: 1 }];
            }
            ExprKind::Scan(scan) => return self.scan(scan, span),
            ExprKind::Grad { of, wrt } => {
                let of = self.one(of);
                let wrt: Vec<Value> = wrt
                    .iter()
                    .map(|w| match w {
                        Wrt::Local(l) => self.get(Name::Local(l.0 as usize)),
                        Wrt::Weight(w) => self.get(Name::Weight(w.0 as usize)),
                    })
                    .collect();
                let one = Scalar::float(self.f().ty(of).dtype, 1.0);
                let one = self.constant(one, span);
                let frame = self.frames.last_mut().expect("a function is under construction");
                return grad::vjp(self.module, &mut frame.f, &[(of, one)], &wrt);
            }
        };
        vec![value]
    }

    /// The scalar expression of an elementwise chain at a point of a box of `rank` variables. Parts of lower rank that cost something are computed apart.
    pub(super) fn chain(&mut self, e: &Expr, rank: usize, operands: &mut Vec<Value>) -> ir::Expr {
        let own = e.types[0].shape.len();
        match &e.kind {
            ExprKind::Const(c) => ir::Expr::Const(*c),
            ExprKind::Size(n) => index_value(Affine::constant(n.clone())),
            ExprKind::Op(op, args) if own == rank || is_constant(e) => {
                let args: Vec<ir::Expr> = args.iter().map(|a| self.chain(a, rank, operands)).collect();
                ir::Expr::op(*op, args)
            }
            ExprKind::Cast(to, a) if own == rank || is_constant(e) || !matches!(a.kind, ExprKind::Op(..)) => cast(*to, self.chain(a, rank, operands)),
            ExprKind::Local(_)
            | ExprKind::Weight(_)
            | ExprKind::Comprehension { .. }
            | ExprKind::Op(..)
            | ExprKind::Cast(..)
            | ExprKind::Project(..)
            | ExprKind::Call { .. }
            | ExprKind::Reshape(_)
            | ExprKind::StopGradient(_)
            | ExprKind::Concat { .. }
            | ExprKind::Write { .. }
            | ExprKind::Place { .. }
            | ExprKind::Scatter { .. }
            | ExprKind::Sort { .. }
            | ExprKind::Scan(_)
            | ExprKind::Grad { .. } => {
                let value = self.one(e);
                load_at(operand(operands, value), rank - own..rank)
            }
        }
    }

    /// A call; the callee's updates of states are taken over.
    fn call(&mut self, id: InstanceId, args: &[Expr], weights: &[Weight], site: u32, span: Span) -> Vec<Value> {
        let (program, done, updated) = (self.program, self.done, self.updated);
        let callee = &program.functions[id.0 as usize];
        let mut operands: Vec<Value> = args.iter().map(|a| self.one(a)).collect();
        for w in weights {
            operands.push(self.get(Name::Latest(w.0 as usize)));
        }
        if callee.random {
            operands.push(self.key(site, span));
        }
        let target = done[id.0 as usize];
        let frame = self.frames.last_mut().expect("a function is under construction");
        let node = frame.f.call(target, self.module.function(target), operands, span);
        // What a statement does not name is called after its weights, `fc1`, else after the function.
        let path = weights.first().map(|w| (&*self.instance.weights[w.0 as usize].path, &*callee.weights[0].path));
        let prefix = path.and_then(|(path, inner)| path.strip_suffix(inner)?.strip_suffix('.'));
        frame.f.nodes[node.0 as usize].name = Some(prefix.unwrap_or(&callee.name).into());
        let declared = callee.results.len();
        for (k, w) in updated[id.0 as usize].iter().enumerate() {
            self.bind(Name::Latest(weights[*w].0 as usize), Value { node, result: (declared + k) as u32 });
        }
        (0..declared).map(|k| Value { node, result: k as u32 }).collect()
    }

    fn concat(&mut self, of: &Typed, parts: &[Expr], axis: usize, span: Span) -> Value {
        let operands: Vec<Value> = parts.iter().map(|a| self.one(a)).collect();
        let rank = of.shape.len();
        let mut at = Size::default();
        let mut pieces = vec![];
        for part in parts {
            let shape = part.types[0].shape.clone();
            let start = (0..rank).map(|k| Start::Size(if k == axis { at.clone() } else { Size::default() })).collect();
            at = &at + &shape[axis];
            pieces.push(Piece { shape, start, stride: vec![Size::constant(1); rank] });
        }
        let place = Place { shape: of.shape.clone(), base: Base::Fill(Scalar::float(of.dtype, 0.0)), pieces };
        self.f().push(Op::Place(place), operands, ty(of), span)
    }

    fn write(&mut self, of: &Typed, base: &Expr, piece: &Expr, start: &[Expr], span: Span) -> Value {
        let mut operands = vec![self.one(base), self.one(piece)];
        let mut starts = vec![];
        for s in start {
            starts.push(match &s.kind {
                ExprKind::Size(n) => Start::Size(n.clone()),
                ExprKind::Const(c) => Start::Size(Size::constant(c.to_i64())),
                _ => {
                    operands.push(self.one(s));
                    Start::Runtime(operands.len() - 3)
                }
            });
        }
        let piece = Piece { shape: piece.types[0].shape.clone(), start: starts, stride: vec![Size::constant(1); of.shape.len()] };
        let place = Place { shape: of.shape.clone(), base: Base::Operand, pieces: vec![piece] };
        self.f().push(Op::Place(place), operands, ty(of), span)
    }

    fn scatter(&mut self, e: &Expr) -> Value {
        let ExprKind::Scatter { base, vars, condition, index, value, fold } = &e.kind else { panic!("{e:?} is no scatter") };
        let (of, span) = (&e.types[0], e.span);
        let base = self.one(base);
        let mut scope = Scope::new(vars, span);
        (scope.operands, scope.reserved) = (vec![base], 1);
        let (guards, rest) = self.condition(condition.as_ref(), &mut scope);
        let mut index: Vec<Index> = index.iter().map(|i| self.index(i, &mut scope)).collect();
        let value = self.element(value, &mut scope);
        let points = vars.iter().map(|(_, n)| n.clone()).collect();
        let Some(rest) = rest else {
            let scatter = Scatter { shape: of.shape.clone(), points, guards, index, value, fold: *fold };
            return self.f().push(Op::Scatter(scatter), scope.operands, ty(of), span);
        };
        // A condition that is no guard: updates that do not take part go to one more row behind the last, which is dropped in the end.
        let (mut shape, mut narrow) = (of.shape.clone(), base);
        if shape.is_empty() {
            shape.push(Size::constant(1));
            index.push(Index::Affine(Affine::default()));
            narrow = self.f().nest(Nest::map(shape.clone(), load_at(0, [])), [base], span);
        }
        let (rank, spill) = (shape.len(), shape[0].clone());
        let piece = Piece { shape: shape.clone(), start: vec![Start::Size(Size::default()); rank], stride: vec![Size::constant(1); rank] };
        shape[0] = &spill + &Size::constant(1);
        let place = Place { shape: shape.clone(), base: Base::Fill(Scalar::float(of.dtype, 0.0)), pieces: vec![piece] };
        let wide = Type::new(of.dtype, shape.clone());
        scope.operands[0] = self.f().push(Op::Place(place), [narrow], wide.clone(), span);
        let index = index.into_iter().enumerate().map(|(axis, i)| {
            let at = match i {
                Index::Affine(a) => index_value(a),
                Index::Gather(e) => *e,
            };
            let out = index_value(Affine::constant(if axis == 0 { spill.clone() } else { Size::default() }));
            Index::Gather(Box::new(ir::Expr::op(ScalarOp::Select, [rest.clone(), at, out])))
        });
        let scatter = Scatter { shape, points, guards, index: index.collect(), value, fold: *fold };
        let all = self.f().push(Op::Scatter(scatter), scope.operands, wide, span);
        let body = if of.shape.is_empty() { ir::load(0, [Affine::default()]) } else { load_at(0, 0..rank) };
        self.f().nest(Nest::map(of.shape.clone(), body), [all], span)
    }
}

/// Whether the expression is literals and sizes only.
pub(super) fn is_constant(e: &Expr) -> bool {
    match &e.kind {
        ExprKind::Const(_) | ExprKind::Size(_) => true,
        ExprKind::Op(_, args) => args.iter().all(is_constant),
        ExprKind::Cast(_, a) => is_constant(a),
        _ => false,
    }
}
