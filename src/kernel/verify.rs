//! What is true of every kernel.
//!
//! - Sizes speak of `n0`, `n1`, ... below the kernel's number of sizes only; indices of variables that are in scope only.
//! - Instructions refer to earlier visible ones; their operands' types fit; a select is [`Instr::Select`].
//! - Loads and stores have an index for every axis; values used as indices are i64.
//! - A stage has one value (two for a dot) and stores results that its fold has; reduction loops only with a fold.
//! - Stores into buffers go to parameters marked as written, of the value's type; stores of computed position come from stages that compute one
//!   position a point. Locals are stored by stages without inner loops, before they are read.

use crate::ir::{Affine, DType, Fold, Guard, IndexAtom, ScalarOp, Size};
use crate::kernel::{Index, Instr, Kernel, Stage, Store, Target};

/// Everything wrong with the kernel.
pub fn verify(kernel: &Kernel) -> Result<(), Vec<String>> {
    let mut check = Check { kernel, vars: 0, stored: vec![false; kernel.locals.len()], errors: vec![] };
    kernel.params.iter().for_each(|p| check.sizes(&p.shape));
    check.sizes(&kernel.outer);
    for (n, stage) in kernel.stages.iter().enumerate() {
        let before = check.errors.len();
        check.stage(stage);
        check.errors[before..].iter_mut().for_each(|e| *e = format!("stage {n}: {e}"));
    }
    if check.errors.is_empty() { Ok(()) } else { Err(check.errors) }
}

/// Panics with the kernel printed unless it verifies.
pub fn check(kernel: &Kernel) {
    if let Err(errors) = verify(kernel) {
        panic!("{}\n{}", errors.join("\n"), super::print::kernel(kernel));
    }
}

/// The types of a body's instructions, or what does not fit.
pub fn types(kernel: &Kernel, body: &[Instr]) -> Result<Vec<DType>, String> {
    let mut types = Vec::with_capacity(body.len());
    block(kernel, body, &mut types)?;
    Ok(types)
}

fn block(kernel: &Kernel, body: &[Instr], types: &mut Vec<DType>) -> Result<(), String> {
    for instr in body {
        let at = |types: &[DType], n: usize| types.get(n).copied().ok_or_else(|| format!("%{n} is not visible"));
        let ty = match instr {
            Instr::Const(c) => c.dtype(),
            Instr::Load { param, index, otherwise } => {
                let dtype = position(kernel, *param, index, types)?;
                if otherwise.is_some_and(|c| c.dtype() != dtype) {
                    return Err(format!("a load of p{param} gives another type where it is out of bounds"));
                }
                dtype
            }
            Instr::Local(l) => *kernel.locals.get(*l).ok_or_else(|| format!("there is no local l{l}"))?,
            Instr::Index(_) => DType::I64,
            Instr::Holds(_) => DType::Bool,
            Instr::Op(ScalarOp::Select, _) => return Err("a select without blocks".into()),
            Instr::Op(op, args) => {
                let args = args.iter().map(|a| at(types, *a)).collect::<Result<Vec<_>, _>>()?;
                op.result(&args).ok_or_else(|| format!("{} of {args:?}", op.name()))?
            }
            Instr::Cast(to, from) => at(types, *from).map(|_| *to)?,
            Instr::Select { condition, then, otherwise } => {
                if at(types, *condition)? != DType::Bool {
                    return Err(format!("%{condition} selects but is no bool"));
                }
                let start = types.len();
                let mut side = |side: &(Vec<Instr>, usize)| -> Result<DType, String> {
                    block(kernel, &side.0, types)?;
                    let ty = at(types, side.1);
                    types.truncate(start);
                    ty
                };
                let (then, otherwise) = (side(then)?, side(otherwise)?);
                if then != otherwise {
                    return Err(format!("a select between {then} and {otherwise}"));
                }
                then
            }
        };
        types.push(ty);
    }
    Ok(())
}

/// The type of the element at an index.
fn position(kernel: &Kernel, param: usize, index: &[Index], types: &[DType]) -> Result<DType, String> {
    let p = kernel.params.get(param).ok_or_else(|| format!("there is no parameter p{param}"))?;
    if index.len() != p.shape.len() {
        return Err(format!("p{param} has {} axes, not {}", p.shape.len(), index.len()));
    }
    for i in index {
        if let Index::Value(v) = i
            && types.get(*v) != Some(&DType::I64)
        {
            return Err(format!("%{v} indexes p{param} but is no visible i64"));
        }
    }
    Ok(p.dtype)
}

struct Check<'a> {
    kernel: &'a Kernel,
    vars: usize,
    stored: Vec<bool>,
    errors: Vec<String>,
}

impl Check<'_> {
    fn require(&mut self, holds: bool, error: impl FnOnce() -> String) {
        if !holds {
            self.errors.push(error());
        }
    }

    fn sizes(&mut self, sizes: &[Size]) {
        sizes.iter().for_each(|s| self.size(s));
    }

    fn size(&mut self, size: &Size) {
        let count = self.kernel.sizes;
        let mut unknown = vec![];
        size.visit_dims(&mut |d| {
            if d.strip_prefix('n').and_then(|n| n.parse::<usize>().ok()).is_none_or(|n| n >= count) {
                unknown.push(d.clone());
            }
        });
        unknown.iter().for_each(|d| self.errors.push(format!("size {d} is not a parameter")));
    }

    fn affine(&mut self, a: &Affine) {
        self.size(&a.constant);
        for (atom, c) in &a.terms {
            self.size(c);
            match atom {
                IndexAtom::Var(v) => self.require(*v < self.vars, || format!("i{v} is not in scope")),
                IndexAtom::Div(a, by) | IndexAtom::Mod(a, by) => {
                    self.affine(a);
                    self.size(by);
                }
            }
        }
    }

    fn guards(&mut self, guards: &[Guard]) {
        guards.iter().for_each(|g| self.affine(&g.expr));
    }

    fn indices(&mut self, index: &[Index]) {
        for i in index {
            if let Index::Affine(a) = i {
                self.affine(a);
            }
        }
    }

    fn instrs(&mut self, body: &[Instr]) {
        for instr in body {
            match instr {
                Instr::Load { index, .. } => self.indices(index),
                Instr::Index(a) => self.affine(a),
                Instr::Holds(g) => self.guards(g),
                Instr::Local(l) => {
                    let stored = self.stored.get(*l) == Some(&true);
                    self.require(stored, || format!("l{l} is read before it is stored"));
                }
                Instr::Select { then, otherwise, .. } => {
                    self.instrs(&then.0);
                    self.instrs(&otherwise.0);
                }
                Instr::Const(_) | Instr::Op(..) | Instr::Cast(..) => {}
            }
        }
    }

    fn stage(&mut self, stage: &Stage) {
        self.sizes(&stage.inner);
        self.sizes(&stage.reds);
        let depth = self.kernel.outer.len() + stage.inner.len();
        self.vars = depth + stage.reds.len();
        self.guards(&stage.guards);
        self.instrs(&stage.body);
        self.require(stage.fold != Fold::None || stage.reds.is_empty(), || "reduction loops without a fold".into());
        self.require(!stage.skip || stage.fold == Fold::None, || "a fold skips".into());
        let wanted = if stage.fold.multiplies() { 2 } else { 1 };
        // Maps may have several results.
        let several = stage.fold == Fold::None && stage.guards.is_empty() && !stage.values.is_empty();
        self.require(several || stage.values.len() == wanted, || format!("{} folds {wanted} values, not {}", stage.fold.name(), stage.values.len()));
        let types = match types(self.kernel, &stage.body) {
            Ok(types) => types,
            Err(e) => return self.errors.push(e),
        };
        let values: Option<Vec<DType>> = stage.values.iter().map(|v| types.get(*v).copied()).collect();
        let Some([value, rest @ ..]) = values.as_deref() else { return self.errors.push("the folded value is not visible".into()) };
        self.require(several || rest.iter().all(|t| t == value), || "the factors' types differ".into());
        self.vars = depth;
        for store in &stage.stores {
            let result = match values.as_ref().filter(|_| several) {
                Some(values) => values.get(store.result).copied().unwrap_or(*value),
                None if store.result == 0 => *value,
                None => DType::I64,
            };
            self.store(stage, store, &types, result);
        }
    }

    fn store(&mut self, stage: &Stage, store: &Store, types: &[DType], value: DType) {
        let results = if stage.fold == Fold::None { stage.values.len() } else { stage.fold.results() };
        self.require(store.result < results, || format!("{} has no result {}", stage.fold.name(), store.result));
        match &store.target {
            Target::Local(l) => {
                self.require(stage.inner.is_empty(), || format!("l{l} is stored in an inner loop"));
                self.require(self.kernel.locals.get(*l) == Some(&value), || format!("l{l} is no {value}"));
                if let Some(stored) = self.stored.get_mut(*l) {
                    *stored = true;
                }
            }
            Target::Param { param, index, .. } => {
                self.indices(index);
                match position(self.kernel, *param, index, types) {
                    Ok(dtype) => self.require(dtype == value, || format!("a {value} is stored in p{param}, of {dtype}")),
                    Err(e) => self.errors.push(e),
                }
                self.require(self.kernel.params.get(*param).is_some_and(|p| p.written), || format!("p{param} is not marked as written"));
                let computed = index.iter().any(|i| matches!(i, Index::Value(_)));
                let single = stage.fold == Fold::None && (stage.guards.is_empty() || stage.skip);
                self.require(!computed || single, || format!("a fold or a guarded stage stores at a computed place of p{param}"));
            }
        }
    }
}
