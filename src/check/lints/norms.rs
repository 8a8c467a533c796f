//! A bias that the next batch norm takes away again: it subtracts the mean of every channel.

use crate::check::Checker;
use crate::check::typed::*;
use crate::diagnostic::Diagnostic;
use crate::span::Span;

impl Checker<'_> {
    /// Library layers with a bias whose result nothing but a batch norm reads.
    pub(in crate::check) fn warn_of_lost_biases(&mut self) {
        let mut found: Vec<(Span, Span, String)> = vec![];
        for f in self.instances.iter().filter(|f| !f.span.in_library()) {
            let mut expressions = vec![];
            f.body.iter().for_each(|s| statement(s, &mut expressions));
            f.results.iter().for_each(|(_, e)| expressions.push(e));
            let mut all = vec![];
            expressions.into_iter().for_each(|e| below(e, &mut all));
            let reads = |l: Local| all.iter().filter(|e| matches!(e.kind, ExprKind::Local(other) if other == l)).count();
            for norm in &all {
                let Some((name, args)) = self.library_call(norm).filter(|(f, _)| f.name.starts_with("batch_norm")).map(|(f, a)| (&f.name, a)) else {
                    continue;
                };
                let before = match args.first().map(|a| &a.kind) {
                    Some(ExprKind::Local(l)) if reads(*l) == 1 => f.body.iter().find_map(|s| match s {
                        Stmt::Let { targets, value, .. } if *targets == [*l] => Some(value),
                        _ => None,
                    }),
                    Some(_) => args.first(),
                    None => None,
                };
                let Some((before, (layer, _))) = before.and_then(|e| Some((e, self.library_call(e)?))) else { continue };
                let sums = &*layer.name == "linear" || layer.name.starts_with("conv");
                if sums && layer.weights.iter().any(|w| &*w.path == "bias") {
                    found.push((before.span, norm.span, format!("the bias of `{}` has no effect before `{name}`", layer.name)));
                }
            }
        }
        for (layer, norm, message) in found {
            // Of a pipe, what stands behind the last sign.
            let text = self.sources.text(layer);
            let start = layer.start + text.rfind("|>").map_or(0, |i| i + 2 + text[i + 2..].len() - text[i + 2..].trim_start().len()) as u32;
            let (layer, end) = (Span { start, ..layer }, Span { start: layer.end - 1, end: layer.end - 1, ..layer });
            let closed = text.ends_with(')');
            let norm_text = self.sources.text(norm);
            let behind = norm_text.rfind("|>").map_or(0, |i| i + 2 + norm_text[i + 2..].len() - norm_text[i + 2..].trim_start().len()) as u32;
            let norm = Span { start: norm.start + behind, ..norm };
            let d = Diagnostic::warning("W0503", message, layer, "adds a bias").label(norm, "subtracts each channel's mean");
            self.report(if closed { d.fix("leave it out", end, ", bias: false") } else { d.note("leave it out: `bias: false`") });
        }
    }

    /// The library's instance that an expression calls, and its arguments.
    fn library_call<'e>(&self, e: &'e Expr) -> Option<(&Instance, &'e [Expr])> {
        let ExprKind::Call { instance, args, .. } = &e.kind else { return None };
        let f = self.instance(*instance);
        f.span.in_library().then_some((f, args))
    }
}

/// The expressions of a statement.
fn statement<'e>(stmt: &'e Stmt, out: &mut Vec<&'e Expr>) {
    match stmt {
        Stmt::Let { value, .. } | Stmt::Update { value, .. } => out.push(value),
        Stmt::Check { condition, .. } => out.push(condition),
    }
}

/// An expression and all those in it.
fn below<'e>(e: &'e Expr, out: &mut Vec<&'e Expr>) {
    out.push(e);
    match &e.kind {
        ExprKind::Local(_) | ExprKind::Weight(_) | ExprKind::Const(_) | ExprKind::Size(_) => {}
        ExprKind::Comprehension { element, .. } => inside(element, out),
        ExprKind::Op(_, args) | ExprKind::Call { args, .. } | ExprKind::Concat { parts: args, .. } => args.iter().for_each(|a| below(a, out)),
        ExprKind::Cast(_, a) | ExprKind::Project(a, _) | ExprKind::Reshape(a) | ExprKind::StopGradient(a) => below(a, out),
        ExprKind::Sort { of, .. } | ExprKind::Grad { of, .. } => below(of, out),
        ExprKind::Write { base, piece, start } => [&**base, piece].into_iter().chain(start).for_each(|a| below(a, out)),
        ExprKind::Place { pieces, .. } => pieces.iter().for_each(|(a, ..)| below(a, out)),
        ExprKind::Scatter { base, condition, index, value, .. } => {
            below(base, out);
            condition.iter().chain(index).chain([value]).for_each(|a| inside(a, out));
        }
        ExprKind::Scan(scan) => {
            scan.inputs.iter().for_each(|(_, a, _)| below(a, out));
            scan.carries.iter().for_each(|(_, first, next)| [first, next].into_iter().for_each(|a| below(a, out)));
            let mut own = vec![];
            scan.body.iter().for_each(|s| statement(s, &mut own));
            own.into_iter().chain(scan.outputs.iter().map(|(a, _)| a)).for_each(|a| below(a, out));
        }
    }
}

fn inside<'e>(e: &'e Element, out: &mut Vec<&'e Expr>) {
    match e {
        Element::Const(_) | Element::Size(_) | Element::Index(_) | Element::Random { .. } => {}
        Element::Load { tensor, indices, .. } => {
            below(tensor, out);
            indices.iter().for_each(|i| inside(i, out));
        }
        Element::Fold { condition, body, .. } => condition.iter().chain([body]).for_each(|a| inside(a, out)),
        Element::Op(_, args) => args.iter().for_each(|a| inside(a, out)),
        Element::Cast(_, a) => inside(a, out),
    }
}
