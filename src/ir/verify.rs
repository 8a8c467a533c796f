//! The invariants of a module, in words, one check each. Run after every pass in tests and debug builds.
//!
//! In: any module. Out: nothing, or every broken invariant with its function and node. What is verified can be printed, evaluated,
//! differentiated and lowered without a panic.

use crate::ir::window::{is_dot_lines, is_winograd, is_winograd_weights};
use crate::ir::*;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Checks every invariant.
pub fn verify(module: &Module) -> Result<(), Vec<String>> {
    let mut broken = Vec::new();
    let dims: BTreeSet<Arc<str>> = module.dims.iter().map(|d| d.name.clone()).collect();
    if dims.len() != module.dims.len() {
        broken.push("a dim is declared twice".into());
    }
    let mut names = BTreeSet::new();
    for (at, f) in module.functions.iter().enumerate() {
        let mut say = |text: String| broken.push(format!("@{}: {text}", f.name));
        if !names.insert(&f.name) {
            say("two functions have this name".into());
        }
        let whole = f.nodes.iter().enumerate().all(|(i, n)| {
            let ordered = n.operands.iter().all(|v| (v.node.0 as usize) < i && (v.result as usize) < f.node(v.node).types.len());
            if !ordered {
                say(format!("%{i}: an operand is not a result of an earlier node"));
            }
            ordered
        });
        if !whole {
            continue;
        }
        for (id, node) in f.iter() {
            let mut check = Checker { module, f, node, at, dims: &dims, broken: vec![] };
            check.node();
            let text = || crate::ir::print::node(module, f, id);
            check.broken.into_iter().for_each(|b| say(format!("{b}\n  in {}", text())));
        }
        self::function(module, f, &mut say);
    }
    for entry in &module.entries {
        let mut say = |text: &str| broken.push(format!("entry {}: {text}", entry.name));
        match module.functions.get(entry.function.0 as usize) {
            None => say("its function does not exist"),
            Some(f) => {
                if f.inputs.len() != entry.inputs.len() {
                    say("an input has no source, or a source no input");
                }
                if f.results.len() != entry.results.len() {
                    say("a result has no sink, or a sink no result");
                }
            }
        }
    }
    if broken.is_empty() { Ok(()) } else { Err(broken) }
}

fn function(module: &Module, f: &Function, say: &mut dyn FnMut(String)) {
    let mut seen = vec![0; f.inputs.len()];
    for node in &f.nodes {
        if let Op::Input(n) = node.op
            && n < seen.len()
        {
            seen[n] += 1;
        }
    }
    if seen.iter().any(|n| *n != 1) {
        say("an input has no node, or two".into());
    }
    let exists = |v: Value| f.nodes.get(v.node.0 as usize).is_some_and(|n| (v.result as usize) < n.types.len());
    if !f.results.iter().all(|(_, v)| exists(*v)) {
        return say("a result is not a value".into());
    }
    let Some(gradient) = &f.gradient else { return };
    let (Some(forward), Some(backward)) = (module.functions.get(gradient.forward.0 as usize), module.functions.get(gradient.backward.0 as usize))
    else {
        return say("its own gradient does not exist".into());
    };
    let results: Vec<&Type> = f.results.iter().map(|(_, v)| f.ty(*v)).collect();
    let forwards: Vec<&Type> = forward.results.iter().map(|(_, v)| forward.ty(*v)).collect();
    if !forward.inputs.iter().map(|i| &i.ty).eq(f.inputs.iter().map(|i| &i.ty)) || !forwards.starts_with(&results) {
        return say("its gradient's forward function has another signature".into());
    }
    let cotangents = results.iter().copied().filter(|t| t.dtype.is_float());
    let wanted = forwards[results.len()..].iter().copied().chain(cotangents);
    if !backward.inputs.iter().map(|i| &i.ty).eq(wanted) {
        say("its gradient's backward function does not take the saved values and one cotangent a float result".into());
    }
    let wrt: Option<Vec<&Type>> = gradient.wrt.iter().map(|n| f.inputs.get(*n).map(|i| &i.ty)).collect();
    if !wrt.is_some_and(|wrt| backward.results.iter().map(|(_, v)| backward.ty(*v)).eq(wrt)) {
        say("its gradient's backward function does not give the cotangents of the inputs it names".into());
    }
}

struct Checker<'a> {
    module: &'a Module,
    f: &'a Function,
    node: &'a Node,
    /// The function's number.
    at: usize,
    dims: &'a BTreeSet<Arc<str>>,
    broken: Vec<String>,
}

impl Checker<'_> {
    fn require(&mut self, holds: bool, text: &str) -> bool {
        if !holds {
            self.broken.push(text.into());
        }
        holds
    }

    fn operands(&mut self, n: usize) -> bool {
        self.require(self.node.operands.len() == n, &format!("takes {n} operands"))
    }

    fn types(&mut self, wanted: &[Type]) {
        self.require(self.node.types == wanted, "the results' types do not follow from the operation");
    }

    fn ty(&self, operand: usize) -> &Type {
        self.f.ty(self.node.operands[operand])
    }

    fn size(&mut self, size: &Size) {
        let mut unknown = vec![];
        size.visit_dims(&mut |d| {
            if !self.dims.contains(d) {
                unknown.push(format!("dim {d} is not declared"));
            }
        });
        self.broken.extend(unknown);
    }

    fn node(&mut self) {
        let node = self.node;
        node.types.iter().flat_map(|t| &t.shape).for_each(|s| self.size(s));
        match &node.op {
            Op::Input(n) => {
                self.operands(0);
                if self.require(*n < self.f.inputs.len(), "there is no such input") {
                    self.types(&[self.f.inputs[*n].ty.clone()]);
                }
            }
            Op::Constant(values) => {
                self.operands(0);
                if self.require(node.types.len() == 1, "a constant is one value") {
                    let shape: Option<Vec<i64>> = node.types[0].shape.iter().map(Size::as_const).collect();
                    let count = shape.and_then(|s| nnc_runtime::tensor::elements(&s));
                    self.require(count == Some(values.len() as i64), "a constant's shape is constant and has as many elements as the constant");
                    self.require(values.iter().all(|v| v.dtype() == node.types[0].dtype), "a constant's elements are of its type");
                }
            }
            Op::Nest(nest) => self.nest(nest),
            Op::Place(place) => self.place(place),
            Op::Scatter(scatter) => self.scatter(scatter),
            Op::Scan(scan) => self.scan(scan),
            Op::Sort { .. } => {
                if self.operands(1) {
                    let ty = self.ty(0).clone();
                    self.require(!ty.shape.is_empty(), "a scalar has no axis to sort along");
                    self.types(&[ty.clone(), Type::new(DType::I64, ty.shape)]);
                }
            }
            Op::Reshape => {
                if self.operands(1) && self.require(node.types.len() == 1, "a reshape is one value") {
                    let count = |t: &Type| t.shape.iter().try_fold(Size::constant(1), |n, s| n.checked_mul(s));
                    self.require(self.ty(0).dtype == node.types[0].dtype, "a reshape keeps the type of elements");
                    self.require(count(self.ty(0)) == count(&node.types[0]), "a reshape keeps the number of elements");
                }
            }
            Op::StopGradient => {
                if self.operands(1) {
                    self.types(&[self.ty(0).clone()]);
                }
            }
            Op::Call(callee) => {
                if !self.require((callee.0 as usize) < self.at, "callees come before callers") {
                    return;
                }
                let callee = self.module.function(*callee);
                let args = node.operands.iter().map(|v| self.f.ty(*v));
                let fits = callee.inputs.iter().map(|i| &i.ty).eq(args);
                self.require(fits, "the operands' types are not those of the callee's inputs");
                let results: Vec<Type> = callee.results.iter().map(|(_, v)| callee.ty(*v).clone()).collect();
                self.types(&results);
            }
            Op::Check(_) => {
                if self.operands(2) {
                    self.require(self.ty(1).dtype == DType::Bool, "a check's condition is bool");
                    self.types(&[self.ty(0).clone()]);
                }
            }
        }
    }

    fn nest(&mut self, nest: &Nest) {
        let rank = nest.rank();
        nest.outs.iter().chain(&nest.reds).for_each(|s| self.size(s));
        self.guards(&nest.guards, rank);
        let Some(dtype) = self.expr(&nest.body, rank) else { return };
        self.require(nest.fold != Fold::None || nest.reds.is_empty(), "a map has no reduction indices");
        match nest.fold {
            Fold::None | Fold::Max | Fold::Min | Fold::ArgMax | Fold::ArgMin => {}
            Fold::Sum | Fold::Prod => {
                self.require(dtype != DType::Bool, "a sum or product is of numbers");
            }
            Fold::Dot => {
                self.require(dtype.is_float(), "a dot is of floats");
                self.require(matches!(nest.body, Expr::Op(ScalarOp::Mul, _)), "a dot's body is a product");
            }
            Fold::Winograd => {
                self.require(dtype.is_float() && is_winograd(nest), "a winograd sum is of the windows of an image");
            }
            Fold::WinogradWeights => {
                self.require(dtype.is_float() && is_winograd_weights(nest), "a winograd sum for weights is of an image and of what its windows give");
            }
            Fold::DotLines => {
                self.require(dtype.is_float() && is_dot_lines(nest), "a sum along lines is of an image and of what its windows give");
            }
        }
        let mut types = vec![Type::new(dtype, nest.outs.clone())];
        if nest.fold.results() == 2 {
            types.push(Type::new(DType::I64, nest.outs.clone()));
        }
        self.types(&types);
    }

    fn affine(&mut self, affine: &Affine, rank: usize) {
        self.size(&affine.constant);
        for (atom, c) in &affine.terms {
            self.size(c);
            match atom {
                IndexAtom::Var(v) => {
                    self.require(*v < rank, "an index variable is one of the box's");
                }
                IndexAtom::Div(a, by) | IndexAtom::Mod(a, by) => {
                    self.affine(a, rank);
                    self.size(by);
                    self.require(by.as_const().is_none_or(|n| n > 0), "an index is divided by a positive size");
                }
            }
        }
        self.require(affine.terms.windows(2).all(|w| w[0].0 < w[1].0), "an affine expression's terms are sorted, one an atom");
    }

    fn guards(&mut self, guards: &[Guard], rank: usize) {
        guards.iter().for_each(|g| self.affine(&g.expr, rank));
    }

    fn index(&mut self, index: &[Index], rank: usize) {
        for i in index {
            match i {
                Index::Affine(a) => self.affine(a, rank),
                Index::Gather(e) => {
                    let dtype = self.expr(e, rank);
                    self.require(dtype.is_none_or(|t| t == DType::I64), "a gathered index is i64");
                }
            }
        }
    }

    /// The expression's type, where it is well-typed.
    fn expr(&mut self, expr: &Expr, rank: usize) -> Option<DType> {
        match expr {
            Expr::Const(c) => Some(c.dtype()),
            Expr::Load { operand, index, otherwise } => {
                if !self.require(*operand < self.node.operands.len(), "a load is of one of the operands") {
                    return None;
                }
                let ty = self.ty(*operand).clone();
                self.require(index.len() == ty.shape.len(), "a load has one index an axis");
                self.require(otherwise.is_none_or(|o| o.dtype() == ty.dtype), "what a load gives out of bounds is of the operand's type");
                self.index(index, rank);
                Some(ty.dtype)
            }
            Expr::Index(a) => {
                self.affine(a, rank);
                Some(DType::I64)
            }
            Expr::Holds(guards) => {
                self.guards(guards, rank);
                Some(DType::Bool)
            }
            Expr::Op(op, args) => {
                let types: Option<Vec<DType>> = args.iter().map(|a| self.expr(a, rank)).collect();
                let dtype = op.result(&types?);
                self.require(dtype.is_some(), &format!("the operands of {} have types that do not fit", op.name()));
                dtype
            }
            Expr::Cast(to, from) => self.expr(from, rank).map(|_| *to),
        }
    }

    fn place(&mut self, place: &Place) {
        let node = self.node;
        if !self.require(node.types.len() == 1 && node.types[0].shape == place.shape, "a place's result has its shape") {
            return;
        }
        let dtype = node.types[0].dtype;
        let first = usize::from(place.base == Base::Operand);
        let runtime = place.pieces.iter().flat_map(|p| &p.start).filter_map(|s| match s {
            Start::Size(_) => None,
            Start::Runtime(n) => Some(n + 1),
        });
        let behind = first + place.pieces.len();
        let count = behind + runtime.max().unwrap_or(0);
        if !self.require(node.operands.len() == count, "a place's operands are its base, its pieces, its run-time starts") {
            return;
        }
        match place.base {
            Base::Fill(value) => self.require(value.dtype() == dtype, "what fills a place is of its type"),
            Base::Operand => self.require(*self.ty(0) == node.types[0], "a place's base is of its type"),
        };
        for n in behind..count {
            self.require(*self.ty(n) == Type::scalar(DType::I64), "a run-time start is an i64 scalar");
        }
        for (n, piece) in place.pieces.iter().enumerate() {
            self.require(*self.ty(first + n) == Type::new(dtype, piece.shape.clone()), "a piece is of the place's type and has its own shape");
            let rank = place.shape.len();
            self.require([piece.shape.len(), piece.start.len(), piece.stride.len()] == [rank; 3], "a piece has a start and a stride an axis");
            self.require(piece.stride.iter().all(|s| s.as_const().is_none_or(|n| n >= 1)), "a stride is at least 1");
            piece.stride.iter().for_each(|s| self.size(s));
            let whole = |p: &Piece| [p.shape.len(), p.start.len(), p.stride.len()] == [rank; 3];
            let apart = place.pieces[..n].iter().all(|before| !whole(before) || !whole(piece) || !before.overlaps(piece));
            self.require(apart, "no two pieces write one position");
        }
    }

    fn scatter(&mut self, scatter: &Scatter) {
        let node = self.node;
        if !self.require(!node.operands.is_empty() && node.types.len() == 1, "a scatter has a base and one result") {
            return;
        }
        self.types(&[self.ty(0).clone()]);
        self.require(node.types[0].shape == scatter.shape, "a scatter's result has its shape");
        let rank = scatter.points.len();
        scatter.points.iter().for_each(|s| self.size(s));
        self.guards(&scatter.guards, rank);
        self.require(scatter.index.len() == scatter.shape.len(), "a scatter has one index an axis");
        self.index(&scatter.index, rank);
        let dtype = self.expr(&scatter.value, rank);
        self.require(dtype.is_none_or(|t| t == node.types[0].dtype), "a scatter's updates are of its type");
    }

    fn scan(&mut self, scan: &Scan) {
        let node = self.node;
        if !self.require((scan.body.0 as usize) < self.at, "callees come before callers") {
            return;
        }
        self.size(&scan.length);
        let body = self.module.function(scan.body);
        let sequences = scan.carries..scan.carries + scan.inputs.len();
        if !self.require(sequences.end <= node.operands.len(), "a scan has its carries and its sequences")
            || !self.require(scan.carries + scan.outputs.len() == body.results.len(), "a scan's body gives the carries and the stacked values")
        {
            return;
        }
        let mut wanted = vec![Type::scalar(DType::I64)];
        for (n, operand) in node.operands.iter().enumerate() {
            let mut ty = self.f.ty(*operand).clone();
            if sequences.contains(&n) {
                let axis = scan.inputs[n - scan.carries];
                if !self.require(ty.shape.get(axis) == Some(&scan.length), "a sequence's axis of time is as long as the scan") {
                    return;
                }
                ty.shape.remove(axis);
            }
            wanted.push(ty);
        }
        self.require(body.inputs.iter().map(|i| &i.ty).eq(&wanted), "a scan's body takes the position, the carries, the slices, the constants");
        let mut types = Vec::new();
        for (n, (_, value)) in body.results.iter().enumerate() {
            let mut ty = body.ty(*value).clone();
            match n < scan.carries {
                true => {
                    self.require(wanted.get(n + 1) == Some(&ty), "a scan's carry keeps its type");
                }
                false => {
                    let axis = scan.outputs[n - scan.carries];
                    if !self.require(axis <= ty.shape.len(), "a stacked value's axis of time is one of its axes") {
                        return;
                    }
                    ty.shape.insert(axis, scan.length.clone());
                }
            }
            types.push(ty);
        }
        self.types(&types);
    }
}
