//! The typed program as text: stable, for readers and snapshots. Names as in the source, every binding with its type.

use super::typed::*;
use crate::ir::{Scalar, ScalarOp};
use std::fmt::Write;

/// The whole program.
pub fn program(program: &Program) -> String {
    let mut out = String::new();
    for dim in &program.dims {
        let max = dim.max.map(|m| format!(" <= {m}")).unwrap_or_default();
        let min = if dim.min > 1 { format!("{} <= ", dim.min) } else { String::new() };
        let _ = writeln!(out, "dim {min}{}{max}", dim.name);
    }
    for (id, function) in program.functions.iter().enumerate() {
        out.push('\n');
        Printer { program, function }.instance(&mut out, id);
    }
    for model in &program.models {
        let _ = writeln!(out, "\nmodel {}: infer @{}, train @{}", model.name, model.infer.0, model.train.0);
    }
    for recipe in &program.recipes {
        let (r, s) = (recipe, &recipe.settings);
        let _ = writeln!(out, "\ntrain {}: {} on {}, batch {} = {}", s.name, s.optimizer, s.data, s.batch_dim, s.batch);
        let _ = writeln!(out, "    objective @{} (evaluation @{}), metrics from @{}", r.train.0, r.eval.0, r.finish.0);
        for update in &r.updates {
            let path = &program.functions[r.train.0 as usize].weights[update.parameter.0 as usize].path;
            let _ = writeln!(out, "    update {path} by @{}", update.optimizer.0);
        }
    }
    out
}

fn ty(ty: &Type) -> String {
    ty.to_string()
}

struct Printer<'a> {
    program: &'a Program,
    function: &'a Instance,
}

impl Printer<'_> {
    fn instance(&self, out: &mut String, id: usize) {
        let f = self.function;
        let inputs: Vec<String> = f.locals[..f.inputs].iter().map(|(name, t, _)| format!("{name}: {}", ty(t))).collect();
        let arguments = if f.arguments.is_empty() { String::new() } else { format!("<{}>", f.arguments) };
        let _ = writeln!(out, "@{id} {}{arguments}({}) {{", f.name, inputs.join(", "));
        for weight in &f.weights {
            let role = match weight.role {
                nnc_runtime::manifest::Role::Parameter => "param",
                nnc_runtime::manifest::Role::State | nnc_runtime::manifest::Role::Optimizer => "state",
            };
            let _ = writeln!(out, "    {role} {}: {} = {}", weight.path, ty(&weight.ty), outer(&self.element(&weight.init.1)));
        }
        self.statements(out, &f.body, 1);
        if let Some(gradient) = &f.gradient {
            let cotangents: Vec<&str> = gradient.cotangents.iter().map(|l| self.local(*l)).collect();
            let _ = writeln!(out, "    gradient({}) {{", cotangents.join(", "));
            self.statements(out, &gradient.body, 2);
            for (of, value) in &gradient.results {
                let of = match of {
                    GradientOf::Input(n) => f.locals[*n].0.to_string(),
                    GradientOf::Weight(w) => self.weight(*w).to_string(),
                };
                let _ = writeln!(out, "        {of}: {}", self.expr(value));
            }
            let _ = writeln!(out, "    }}");
        }
        for (name, value) in &f.results {
            let name = name.as_ref().map(|n| format!("{n}: ")).unwrap_or_default();
            let types: Vec<String> = value.types.iter().map(ty).collect();
            let _ = writeln!(out, "    return {name}{} : {}", outer(&self.expr(value)), types.join(", "));
        }
        let _ = writeln!(out, "}}");
    }

    fn statements(&self, out: &mut String, statements: &[Stmt], depth: usize) {
        let indent = "    ".repeat(depth);
        for statement in statements {
            let line = match statement {
                Stmt::Let { targets, value, .. } => {
                    let targets: Vec<String> =
                        targets.iter().map(|t| format!("{}: {}", self.local(*t), ty(&self.function.locals[t.0 as usize].1))).collect();
                    format!("{} = {}", targets.join(", "), outer(&self.expr(value)))
                }
                Stmt::Update { weight, value, .. } => format!("update {} = {}", self.weight(*weight), outer(&self.expr(value))),
                Stmt::Check { condition, message, .. } => format!("check {} {message:?}", self.expr(condition)),
            };
            let _ = writeln!(out, "{indent}{line}");
        }
    }

    fn local(&self, local: Local) -> &str {
        &self.function.locals[local.0 as usize].0
    }

    fn weight(&self, weight: Weight) -> &str {
        &self.function.weights[weight.0 as usize].path
    }

    fn exprs(&self, exprs: &[Expr]) -> String {
        exprs.iter().map(|e| self.expr(e)).collect::<Vec<_>>().join(", ")
    }

    fn expr(&self, expr: &Expr) -> String {
        match &expr.kind {
            ExprKind::Local(l) => self.local(*l).to_string(),
            ExprKind::Weight(w) => self.weight(*w).to_string(),
            ExprKind::Const(c) => scalar(*c),
            ExprKind::Size(s) => s.to_string(),
            ExprKind::Comprehension { vars, groups, element } => {
                let mut names = vars.iter().map(|(v, n)| format!("{}<{n}", index(*v)));
                let axes: Vec<String> = groups
                    .iter()
                    .map(|n| {
                        let merged: Vec<String> = names.by_ref().take(*n).collect();
                        if *n == 1 { merged.concat() } else { format!("({})", merged.join(" ")) }
                    })
                    .collect();
                format!("[{}] {}", axes.join(", "), outer(&self.element(element)))
            }
            ExprKind::Op(op, args) => operation(*op, args.iter().map(|a| self.expr(a)).collect()),
            ExprKind::Cast(to, of) => format!("{to}({})", self.expr(of)),
            ExprKind::Project(of, n) => format!("{}.{n}", self.expr(of)),
            ExprKind::Call { instance, args, weights, .. } => {
                let callee = &self.program.functions[instance.0 as usize];
                let weights: Vec<&str> = weights.iter().map(|w| self.weight(*w)).collect();
                let weights = if weights.is_empty() { String::new() } else { format!("; {}", weights.join(", ")) };
                format!("{}@{}({}{weights})", callee.name, instance.0, self.exprs(args))
            }
            ExprKind::Reshape(of) => format!("reshape({})", self.expr(of)),
            ExprKind::StopGradient(of) => format!("stop_gradient({})", self.expr(of)),
            ExprKind::Concat { parts, axis } => format!("concat({}, axis: {axis})", self.exprs(parts)),
            ExprKind::Write { base, piece, start } => format!("write({}, {}, {})", self.expr(base), self.expr(piece), self.exprs(start)),
            ExprKind::Place { fill, pieces } => {
                let sizes = |s: &[crate::ir::Size]| s.iter().map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
                let pieces: Vec<String> = pieces.iter().map(|(p, at, by)| format!("({}, [{}], [{}])", self.expr(p), sizes(at), sizes(by))).collect();
                format!("place({}, {})", scalar(*fill), pieces.join(", "))
            }
            ExprKind::Scatter { base, vars, condition, index: at, value, fold } => {
                let vars: Vec<String> = vars.iter().map(|(v, n)| format!("{}<{n}", index(*v))).collect();
                let at: Vec<String> = at.iter().map(|e| self.element(e)).collect();
                let condition = condition.as_ref().map(|c| format!(" where {}", self.element(c))).unwrap_or_default();
                format!(
                    "scatter {} [{}{condition}] [{}] = {} into {}",
                    fold.name(),
                    vars.join(", "),
                    at.join(", "),
                    self.element(value),
                    self.expr(base)
                )
            }
            ExprKind::Sort { of, descending } => format!("sort({}, descending: {descending})", self.expr(of)),
            ExprKind::Scan(scan) => self.scan(scan),
            ExprKind::Grad { of, wrt } => {
                let wrt: Vec<&str> = wrt
                    .iter()
                    .map(|w| match w {
                        Wrt::Local(l) => self.local(*l),
                        Wrt::Weight(w) => self.weight(*w),
                    })
                    .collect();
                format!("grad({}, wrt: {})", self.expr(of), wrt.join(", "))
            }
        }
    }

    fn scan(&self, scan: &Scan) -> String {
        let inputs: Vec<String> = scan.inputs.iter().map(|(l, of, axis)| format!("{} in {} axis {axis}", self.local(*l), self.expr(of))).collect();
        let carries: Vec<String> = scan.carries.iter().map(|(l, from, _)| format!("{}: {}", self.local(*l), self.expr(from))).collect();
        let mut body = String::new();
        self.statements(&mut body, &scan.body, 2);
        for (local, _, next) in &scan.carries {
            let _ = writeln!(body, "        next {} = {}", self.local(*local), self.expr(next));
        }
        for (value, axis) in &scan.outputs {
            let _ = writeln!(body, "        stack {} axis {axis}", self.expr(value));
        }
        let reversed = if scan.reversed { " reversed" } else { "" };
        format!("scan {} over {}{reversed} from ({}) {{\n{body}    }}", inputs.join(", "), scan.length, carries.join(", "))
    }

    fn element(&self, element: &Element) -> String {
        match element {
            Element::Const(c) => scalar(*c),
            Element::Size(s) => format!("({s})"),
            Element::Index(v) => index(*v),
            Element::Load { tensor, indices, otherwise, .. } => {
                let indices: Vec<String> = indices.iter().map(|i| self.element(i)).collect();
                let otherwise = otherwise.map(|o| format!(", else: {}", scalar(o))).unwrap_or_default();
                format!("{}[{}{otherwise}]", self.expr(tensor), indices.join(", "))
            }
            Element::Fold { fold, vars, condition, body, .. } => {
                let name = match fold {
                    FoldKind::Sum => "sum",
                    FoldKind::Prod => "prod",
                    FoldKind::Max => "max",
                    FoldKind::Min => "min",
                    FoldKind::AMax => "amax",
                    FoldKind::AMin => "amin",
                    FoldKind::ArgMax => "argmax",
                    FoldKind::ArgMin => "argmin",
                };
                let vars: Vec<String> = vars.iter().map(|(v, n)| format!("{}<{n}", index(*v))).collect();
                let condition = condition.as_ref().map(|c| format!(" where {}", self.element(c))).unwrap_or_default();
                format!("{name}[{}{condition}]({})", vars.join(", "), outer(&self.element(body)))
            }
            Element::Op(op, args) => operation(*op, args.iter().map(|a| self.element(a)).collect()),
            Element::Cast(to, of) => format!("{to}({})", self.element(of)),
            Element::Random { site, dtype } => format!("random<{dtype}>#{site}"),
        }
    }
}

/// Without the parentheses around all of it.
fn outer(text: &str) -> &str {
    let Some(inner) = text.strip_prefix('(').and_then(|t| t.strip_suffix(')')) else { return text };
    let mut depth = 0;
    for c in inner.chars() {
        match c {
            '(' => depth += 1,
            ')' if depth == 0 => return text,
            ')' => depth -= 1,
            _ => {}
        }
    }
    inner
}

fn index(v: IndexVar) -> String {
    format!("i{}", v.0)
}

fn scalar(c: Scalar) -> String {
    c.to_string()
}

/// Infix where the operation's name is a sign, else a call.
fn operation(op: ScalarOp, args: Vec<String>) -> String {
    let word = op.name().starts_with(|c: char| c.is_ascii_alphabetic());
    match args.as_slice() {
        [a, b] if !word || matches!(op, ScalarOp::And | ScalarOp::Or) => format!("({a} {} {b})", op.name()),
        _ => format!("{}({})", op.name(), args.join(", ")),
    }
}
