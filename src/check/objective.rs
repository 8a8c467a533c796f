//! What a recipe computes from a batch: the loss and the metrics, as accumulators in training and evaluation mode, and their results at the end.

use crate::check::Checker;
use crate::check::calls::{Given, Prepared};
use crate::check::data::ColumnInfo;
use crate::check::train::Plan;
use crate::check::typed::{self, *};
use crate::check::value::*;
use crate::diagnostic::Diagnostic;
use crate::ir::{DType, ScalarOp, Size};
use crate::parse::tree::{self, Axis, ExprKind, FunctionKind, StmtKind};
use crate::span::Span;
use nnc_runtime::recipe::Metric;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A recipe's instances.
pub struct Objective {
    /// Which data section.
    pub data: usize,
    /// The dim that the batch is.
    pub batch_dim: Arc<str>,
    /// In training mode.
    pub train: InstanceId,
    /// In evaluation mode.
    pub eval: InstanceId,
    /// Metrics' results.
    pub finish: InstanceId,
    /// For the runtime.
    pub metrics: Vec<Metric>,
}

/// A metric (or the loss) of the recipe: how its result comes from its accumulators.
struct Measure {
    metric: Metric,
    /// The function whose `result` it is, with its static arguments; else the quotient of two accumulators.
    function: Option<(DefId, BTreeMap<Arc<str>, Binding>)>,
}

type Accumulators = Vec<(Arc<str>, Expr)>;

impl Checker<'_> {
    /// The recipe's functions.
    pub(super) fn objective(&mut self, plan: &Plan, data: usize, loss: &tree::Expr) -> Option<Objective> {
        self.data[data].used = true;
        let used = self.columns_read(plan, data);
        let batch_dim = self.batch_dim(plan, data, &used);
        self.infer_shapes(plan, data, &used);
        for k in &used {
            let c = &self.data[data].columns[*k];
            if c.shape.is_none() {
                let (name, span) = (c.column.name.clone(), c.span);
                let d = Diagnostic::error("E0612", format!("the shape of a row of `{name}` is not known"), span, "only its file knows it");
                self.report(d.note("declare it: `: real[28, 28]`, `: token<V>[T]`"));
                return None;
            }
        }
        let (train, measures, uses_mode) = self.objective_in(plan, data, &used, &batch_dim, loss, true)?;
        // Where nothing depends on the mode both are one.
        let eval = if uses_mode { self.objective_in(plan, data, &used, &batch_dim, loss, false)?.0 } else { train };
        let finish = self.finish_instance(plan, &measures)?;
        let metrics = measures.into_iter().map(|m| m.metric).collect();
        Some(Objective { data, batch_dim, train, eval, finish, metrics })
    }

    /// The columns whose names the recipe's expressions have, in the data's order.
    fn columns_read(&mut self, plan: &Plan, data: usize) -> Vec<usize> {
        let mut names: Vec<Arc<str>> = vec![];
        let exprs = plan.bindings.iter().map(|(_, e)| *e).chain(plan.get("loss")).chain(plan.get("metrics"));
        for e in exprs {
            super::statements::visit_names(e, &mut |n| names.push(n.clone()));
        }
        let mut used = vec![];
        for (k, c) in self.data[data].columns.iter_mut().enumerate() {
            if names.contains(&c.column.name) {
                c.used = true;
                used.push(k);
            }
        }
        used
    }

    /// Every place where a column goes straight into a function of the program: the column and the parameter.
    fn column_arguments(&mut self, plan: &Plan, data: usize) -> Vec<(usize, tree::Param, FunctionKind)> {
        let mut calls: Vec<(Arc<str>, Vec<NameGiven>)> = vec![];
        let exprs: Vec<&tree::Expr> = plan.bindings.iter().map(|(_, e)| *e).chain(plan.get("loss")).chain(plan.get("metrics")).collect();
        for e in exprs {
            visit_calls(e, &mut |name, args| calls.push((name.clone(), args)));
        }
        let mut found = vec![];
        for (name, args) in calls {
            let Some(def) = self.function(&name, false) else { continue };
            let f = self.scope.def(def).tree.clone();
            for (given, at, arg) in args {
                let param = match given {
                    Some(n) => f.params.iter().find(|p| p.name.name == n),
                    None => f.params.get(at),
                };
                let column = self.data[data].columns.iter().position(|c| c.column.name == arg);
                if let (Some(p), Some(k)) = (param, column) {
                    found.push((k, p.clone(), f.kind));
                }
            }
        }
        found
    }

    /// The dim of the batch: the first axis of a model's input that a column is given for.
    fn batch_dim(&mut self, plan: &Plan, data: usize, _used: &[usize]) -> Arc<str> {
        for (_, p, kind) in self.column_arguments(plan, data) {
            let first = p.ty.as_ref().and_then(|t| t.shape.as_ref()).and_then(|s| s.first());
            if let (FunctionKind::Model, Some(Axis::Size(tree::Expr { kind: ExprKind::Name(n), .. }))) = (kind, first)
                && self.program.dims.iter().any(|d| d.name == *n)
            {
                return n.clone();
            }
        }
        let named = self.program.dims.iter().find(|d| &*d.name == "B").or_else(|| self.program.dims.first());
        if let Some(d) = named {
            return d.name.clone();
        }
        self.program.dims.push(crate::ir::Dim { name: "B".into(), min: 1, max: None });
        "B".into()
    }

    /// Shapes that only the file knows, from the models' inputs.
    fn infer_shapes(&mut self, plan: &Plan, data: usize, used: &[usize]) {
        for (k, p, kind) in self.column_arguments(plan, data) {
            if kind != FunctionKind::Model || !used.contains(&k) || self.data[data].columns[k].shape.is_some() {
                continue;
            }
            let Some(axes) = p.ty.as_ref().and_then(|t| t.shape.clone()) else { continue };
            let mut b = Body::new("".into(), false, self.options.real, false);
            let sizes: Option<Vec<Size>> = axes.iter().skip(1).map(|a| if let Axis::Size(e) = a { self.size(&mut b, e) } else { None }).collect();
            self.data[data].columns[k].shape = sizes;
        }
        // Targets: a class or word at every place of an input of words, one a sample of an input of numbers.
        let named = |meaning: &Meaning| matches!(meaning, Meaning::Class(_) | Meaning::Token(_));
        let known: Vec<&ColumnInfo> = used.iter().map(|k| &self.data[data].columns[*k]).filter(|c| c.shape.is_some()).collect();
        if let [input] = &known[..] {
            let shape = if named(&input.meaning) { input.shape.clone() } else { Some(vec![]) };
            for k in used {
                let c = &mut self.data[data].columns[*k];
                if c.shape.is_none() && named(&c.meaning) {
                    c.shape.clone_from(&shape);
                }
            }
        }
    }

    fn objective_in(
        &mut self,
        plan: &Plan,
        data: usize,
        used: &[usize],
        batch: &Arc<str>,
        loss: &tree::Expr,
        training: bool,
    ) -> Option<(InstanceId, Vec<Measure>, bool)> {
        let name = plan.section.name.name.clone();
        let mut b = Body::new(name, training, self.options.real, false);
        b.weightless = true;
        for k in used {
            let c = self.data[data].columns[*k].clone();
            let mut shape = vec![Size::dim(batch)];
            shape.extend(c.shape?);
            let local = b.local(&c.column.name, Type { dtype: c.column.dtype, shape, meaning: c.meaning }, c.span);
            let read = b.read(local, c.span);
            b.bind(&c.column.name, Value::Tensor(read), c.span);
        }
        b.inputs = b.locals.len();
        // Columns that nothing reads are known where a name is not.
        let others = self.data[data].columns.iter().enumerate().filter(|(k, _)| !used.contains(k)).map(|(_, c)| c.column.name.clone());
        for name in others.chain(self.data[data].broken.clone()).collect::<Vec<_>>() {
            b.bind(&name, Value::Poison, plan.section.span);
        }
        for (name, e) in &plan.bindings {
            let value = self.expr(&mut b, e);
            self.bind_value(&mut b, name, value, name.span.to(e.span));
        }
        let mut good = true;
        let mut results: Vec<(Option<Arc<str>>, Expr)> = vec![];
        let mut measures: Vec<Measure> = vec![];
        let entries = self.metric_list(plan);
        for (i, (given, e)) in [(Some(Arc::from("loss")), loss)].into_iter().chain(entries).enumerate() {
            let Some((default, accumulators, function)) = self.measure(&mut b, e, batch, i == 0) else {
                good = false;
                continue;
            };
            let mut name = given.unwrap_or(default);
            let base = name.clone();
            let mut n = 1;
            while measures.iter().any(|m| m.metric.name == name) {
                n += 1;
                name = format!("{base}{n}").into();
            }
            let paths: Vec<Arc<str>> = accumulators.iter().map(|(a, _)| format!("{name}.{a}").into()).collect();
            results.extend(paths.iter().cloned().map(Some).zip(accumulators.into_iter().map(|(_, e)| e)));
            let larger_is_better = if i == 0 { Some(false) } else { function.as_ref().and_then(|(d, _)| self.direction(*d)) };
            measures.push(Measure { metric: Metric { name, accumulators: paths, larger_is_better }, function });
        }
        if !good {
            return None;
        }
        // Weights of a recipe are all absolute.
        for w in &mut b.weights {
            if let Some(path) = w.path.strip_prefix('/') {
                w.path = path.into();
            }
        }
        let (inputs, uses_mode) = (b.inputs, b.uses_mode);
        Some((self.finish(b, inputs, String::new(), results, plan.section.span), measures, uses_mode))
    }

    /// The metrics with the names that they are given.
    fn metric_list<'t>(&mut self, plan: &Plan<'t>) -> Vec<(Option<Arc<str>>, &'t tree::Expr)> {
        let Some(e) = plan.get("metrics") else { return vec![] };
        match &e.kind {
            ExprKind::List(parts) => parts.iter().map(|e| (name_of(e), e)).collect(),
            ExprKind::Tuple(parts) => parts.iter().map(|(n, e)| (n.as_ref().map(|n| n.name.clone()).or_else(|| name_of(e)), e)).collect(),
            _ => vec![(name_of(e), e)],
        }
    }

    /// Whether a larger value is better, from the metric's doc comment; for the library's also from its name.
    fn direction(&self, def: DefId) -> Option<bool> {
        let f = &self.scope.def(def).tree;
        let doc = f.doc.to_lowercase();
        if f.kind == FunctionKind::Loss || doc.contains("smaller is better") {
            return Some(false);
        }
        if doc.contains("larger is better") {
            return Some(true);
        }
        match &*f.name.name {
            "mae" | "rmse" => Some(false),
            "accuracy" | "top_k" | "binary_accuracy" | "precision" | "recall" | "f1" | "r2" => Some(true),
            _ => None,
        }
    }

    /// One loss or metric: a default name, its accumulators, and whose `result` it is.
    #[expect(clippy::type_complexity, reason = "see above")]
    fn measure(
        &mut self,
        b: &mut Body,
        e: &tree::Expr,
        batch: &str,
        is_loss: bool,
    ) -> Option<(Arc<str>, Accumulators, Option<(DefId, BTreeMap<Arc<str>, Binding>)>)> {
        if let Some((def, given)) = self.accumulating(b, e) {
            let f = self.scope.def(def).tree.clone();
            if is_loss && f.kind == FunctionKind::Metric {
                let d = Diagnostic::error("E0613", format!("the metric `{}` is no loss", f.name.name), e.span, "cannot be trained on");
                self.report(d.note("losses are for example `cross_entropy`, `mse`"));
                return None;
            }
            if given.iter().any(|g| matches!(g.value, Value::Poison)) {
                return None;
            }
            let slots = self.match_arguments(&f, given, e.span)?;
            let prepared: Prepared = self.prepare(b, def, slots, false)?;
            let statics: BTreeMap<Arc<str>, Binding> = prepared.body.frames[0]
                .names
                .iter()
                .filter(|(_, x)| matches!(x.value, Value::Static(_)))
                .map(|(n, x)| (n.clone(), x.clone()))
                .collect();
            let (made, args) = self.make(def, prepared, e.span);
            b.uses_mode |= made.uses_mode;
            let id = made.id?;
            b.random |= self.instance(id).random;
            let names: Vec<Option<Arc<str>>> = self.instance(id).results.iter().map(|(n, _)| n.clone()).collect();
            let types: Vec<Type> = self.instance(id).results.iter().map(|(_, e)| e.ty().clone()).collect();
            let weights = self.adopt(b, id, "");
            let site = b.site();
            let call = Expr { kind: typed::ExprKind::Call { instance: id, args, weights, site }, types, span: e.span };
            let parts = self.unpack(b, call, &names);
            let accumulators =
                parts.into_iter().filter_map(|(n, v)| if let (Some(n), Value::Tensor(e)) = (n, v) { Some((n, e)) } else { None }).collect();
            let function = (f.kind == FunctionKind::Metric).then_some((def, statics));
            return Some((f.name.name.clone(), accumulators, function));
        }
        let value = self.expr(b, e);
        let what = if is_loss { "the loss" } else { "a metric" };
        let value = match value {
            Value::Static(_) if is_loss => {
                self.wrong("E0613", "the loss does not depend on the data", e.span, "a constant");
                return None;
            }
            Value::Tensor(t) => {
                if !t.ty().shape.is_empty() {
                    let d = Diagnostic::error("E0613", format!("{what} is a single number"), e.span, format!("this is {}", t.ty()));
                    let d = self.made_at(d, b, &t);
                    self.report(d.note("take a mean: `mean[b](e[b])`"));
                    return None;
                }
                if !t.ty().dtype.is_float() {
                    self.wrong("E0613", format!("{what} is a real number"), e.span, format!("this is {}", t.ty()));
                    return None;
                }
                t
            }
            Value::Poison => return None,
            other => self.fit(b, other, DType::F64, &Meaning::Plain, e.span, what)?,
        };
        let name: Arc<str> = "metric".into();
        // A mean is its sum and its count, so that uneven batches are exact.
        if let (ExprKind::Fold { fold, .. }, typed::ExprKind::Comprehension { vars, groups, element: Element::Op(ScalarOp::Div, parts) }) =
            (&e.kind, &value.kind)
            && &*fold.name == "mean"
            && let [sum, count] = &parts[..]
        {
            let part = |element: &Element| {
                let kind = typed::ExprKind::Comprehension { vars: vars.clone(), groups: groups.clone(), element: element.clone() };
                Expr::one(kind, value.ty().clone(), e.span)
            };
            let (sum, count) = (b.hoist("sum", part(sum)), b.hoist("weight", part(count)));
            return Some((name, vec![("sum".into(), sum), ("weight".into(), count)], None));
        }
        let value = b.hoist("value", value);
        let dtype = value.ty().dtype;
        let size = self.cast(b, dtype, Value::Static(Static::Int(Size::dim(batch))), e.span);
        let Value::Tensor(size) = size else { return None };
        let weight = b.hoist("weight", size);
        let sum = self.op(b, ScalarOp::Mul, vec![Value::Tensor(value), Value::Tensor(weight.clone())], e.span);
        let Value::Tensor(sum) = sum else { return None };
        let sum = b.hoist("sum", sum);
        Some((name, vec![("sum".into(), sum), ("weight".into(), weight)], None))
    }

    /// A call of a loss or metric, by name or by pipe.
    fn accumulating(&mut self, b: &mut Body, e: &tree::Expr) -> Option<(DefId, Vec<Given>)> {
        let (callee, args, first) = match &e.kind {
            ExprKind::Call { callee, args } => (&**callee, &args[..], None),
            ExprKind::Pipe(left, right) => match &right.kind {
                ExprKind::Call { callee, args } => (&**callee, &args[..], Some(&**left)),
                _ => (&**right, &[][..], Some(&**left)),
            },
            _ => return None,
        };
        let ExprKind::Name(name) = &callee.kind else { return None };
        let def = self.function(name, false)?;
        if !matches!(self.scope.def(def).tree.kind, FunctionKind::Loss | FunctionKind::Metric) {
            return None;
        }
        let mut given = vec![];
        if let Some(left) = first {
            given.push(Given { name: None, value: self.expr(b, left), span: left.span });
        }
        given.extend(self.arguments(b, args));
        Some((def, given))
    }

    /// From all accumulators, as f64, to the metrics' values.
    fn finish_instance(&mut self, plan: &Plan, measures: &[Measure]) -> Option<InstanceId> {
        let span: Span = plan.section.name.span;
        let mut b = Body::new(format!("{}.finish", plan.section.name.name).into(), false, self.options.real, false);
        let mut inputs: Vec<Vec<Value>> = vec![];
        for m in measures {
            let mut own = vec![];
            for a in &m.metric.accumulators {
                let local = b.local(a, Type::plain(DType::F64, vec![]), span);
                own.push(Value::Tensor(b.read(local, span)));
            }
            inputs.push(own);
        }
        b.inputs = b.locals.len();
        let mut results = vec![];
        for (m, own) in measures.iter().zip(inputs) {
            let value = match &m.function {
                None => self.op(&mut b, ScalarOp::Div, own, span),
                Some((def, statics)) => {
                    let f = self.scope.def(*def).tree.clone();
                    let library = self.scope.def(*def).library;
                    b.frames.push(Frame { names: statics.clone(), barrier: true, library, ..Frame::default() });
                    for (a, value) in m.metric.accumulators.iter().zip(own) {
                        let short: Arc<str> = a.rsplit('.').next().unwrap_or(a).into();
                        b.bind(&short, value, span);
                    }
                    let result = f.body.iter().find_map(|s| if let StmtKind::Result(e) = &s.kind { Some(e) } else { None });
                    let value = match result {
                        Some(e) => {
                            self.active.push((*def, span));
                            let value = self.expr(&mut b, e);
                            self.active.pop();
                            value
                        }
                        None => {
                            let d = Diagnostic::error(
                                "E0509",
                                format!("the metric `{}` has no `result`", f.name.name),
                                f.name.span,
                                "its value is missing",
                            );
                            self.report(d.note("end it with `result hits / count`"));
                            Value::Poison
                        }
                    };
                    b.frames.pop();
                    value
                }
            };
            let e = self.fit(&b, value, DType::F64, &Meaning::Plain, span, &format!("the metric `{}`", m.metric.name))?;
            results.push((Some(m.metric.name.clone()), e));
        }
        let inputs = b.inputs;
        Some(self.finish(b, inputs, String::new(), results, plan.section.span))
    }
}

/// A metric's name where it is a binding.
fn name_of(e: &tree::Expr) -> Option<Arc<str>> {
    if let ExprKind::Name(n) = &e.kind { Some(n.clone()) } else { None }
}

/// An argument that is a plain name: its parameter's name, if given, its position, and the name.
type NameGiven = (Option<Arc<str>>, usize, Arc<str>);

/// Calls `see` with every call of a name and its arguments that are plain names.
fn visit_calls(e: &tree::Expr, see: &mut dyn FnMut(&Arc<str>, Vec<NameGiven>)) {
    let plain = |args: &[tree::Arg], offset: usize| {
        args.iter()
            .enumerate()
            .filter_map(|(i, a)| name_of(&a.value).map(|n| (a.name.as_ref().map(|n| n.name.clone()), i + offset, n)))
            .collect::<Vec<_>>()
    };
    match &e.kind {
        ExprKind::Call { callee, args } => {
            if let ExprKind::Name(n) = &callee.kind {
                see(n, plain(args, 0));
            }
            args.iter().for_each(|a| visit_calls(&a.value, see));
        }
        ExprKind::Pipe(left, right) => {
            visit_calls(left, see);
            let first = name_of(left).map(|n| (None, 0, n));
            match &right.kind {
                ExprKind::Call { callee, args } => {
                    if let ExprKind::Name(n) = &callee.kind {
                        see(n, first.into_iter().chain(plain(args, 1)).collect());
                    }
                    args.iter().for_each(|a| visit_calls(&a.value, see));
                }
                ExprKind::Name(n) => see(n, first.into_iter().collect()),
                _ => {}
            }
        }
        ExprKind::Binary(_, x, y) => {
            visit_calls(x, see);
            visit_calls(y, see);
        }
        ExprKind::Unary(_, x) => visit_calls(x, see),
        ExprKind::Fold { body, .. } => visit_calls(body, see),
        ExprKind::List(parts) => parts.iter().for_each(|e| visit_calls(e, see)),
        ExprKind::Tuple(parts) => parts.iter().for_each(|(_, e)| visit_calls(e, see)),
        ExprKind::Load { base, .. } => visit_calls(base, see),
        _ => {}
    }
}
