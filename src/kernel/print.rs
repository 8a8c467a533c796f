//! Kernels as text; [`crate::kernel::parse`] reads it back.
//!
//! ```text
//! kernel dot_h(n0) {
//!   p0: f32[n0, 64]
//!   p1: f32[10, 64]
//!   p2: out f32[n0, 10]
//!   local l0: f32
//!   outer [i0 < n0, i1 < 10]
//!   stage dot [i2 < 64] {
//!     %0 = load p0[i0, i2]
//!     %1 = load p1[i1, i2]
//!     fold %0, %1
//!     l0 = result 0
//!   }
//!   stage map {
//!     %0 = local l0
//!     %1 = 0.0
//!     %2 = %1 < %0
//!     %3 = select %2 { yield %0 } else { yield %1 }
//!     fold %3
//!     p2[i0, i1] = result 0
//!   }
//! }
//! ```
//! `i0`, `i1`, ... are the outer indices, then a stage's `inner` ones, then those it folds over.

use crate::ir::print::{affine, guard, scalar, word};
use crate::ir::{Guard, ScalarOp, Size};
use crate::kernel::{Index, Instr, Kernel, Stage, Store, Target};
use std::fmt::Write;

/// The kernel.
pub fn kernel(kernel: &Kernel) -> String {
    let sizes: Vec<String> = (0..kernel.sizes).map(|n| format!("n{n}")).collect();
    let mut text = format!("kernel {}({}) {{\n", word(&kernel.name), sizes.join(", "));
    for (n, p) in kernel.params.iter().enumerate() {
        let written = if p.written { "out " } else { "" };
        let shape: Vec<String> = p.shape.iter().map(|s| s.to_string()).collect();
        line(&mut text, 1, format_args!("p{n}: {written}{}[{}]", p.dtype, shape.join(", ")));
    }
    for (n, dtype) in kernel.locals.iter().enumerate() {
        line(&mut text, 1, format_args!("local l{n}: {dtype}"));
    }
    line(&mut text, 1, format_args!("outer {}", ranges(&kernel.outer, 0)));
    kernel.stages.iter().for_each(|s| stage(&mut text, kernel, s));
    text + "}\n"
}

fn line(text: &mut String, depth: usize, content: std::fmt::Arguments) {
    let _ = writeln!(text, "{:1$}{content}", "", 2 * depth);
}

fn ranges(sizes: &[Size], first: usize) -> String {
    let range = |(n, s): (usize, &Size)| format!("i{} < {s}", first + n);
    format!("[{}]", sizes.iter().enumerate().map(range).collect::<Vec<_>>().join(", "))
}

/// The names of a stage's index variables.
pub(super) fn vars(count: usize) -> Vec<String> {
    (0..count).map(|v| format!("i{v}")).collect()
}

fn guards(guards: &[Guard], vars: &[String]) -> String {
    match guards {
        [] => "true".into(),
        _ => guards.iter().map(|g| guard(g, vars)).collect::<Vec<_>>().join(" and "),
    }
}

fn stage(text: &mut String, kernel: &Kernel, stage: &Stage) {
    let (outer, inner) = (kernel.outer.len(), stage.inner.len());
    let vars = vars(outer + inner + stage.reds.len());
    let mut head = format!("stage {}", stage.fold.name());
    if !stage.reds.is_empty() {
        head += &format!(" {}", ranges(&stage.reds, outer + inner));
    }
    if inner > 0 {
        head += &format!(" inner {}", ranges(&stage.inner, outer));
    }
    if !stage.guards.is_empty() {
        head += &format!(" where {}", guards(&stage.guards, &vars));
    }
    if stage.skip {
        head += " skip";
    }
    line(text, 1, format_args!("{head} {{"));
    block(text, 2, 0, &stage.body, &vars);
    line(text, 2, format_args!("fold {}", values(&stage.values)));
    stage.stores.iter().for_each(|s| line(text, 2, format_args!("{}", store(s, &vars))));
    line(text, 1, format_args!("}}"));
}

fn values(list: &[usize]) -> String {
    list.iter().map(|v| format!("%{v}")).collect::<Vec<_>>().join(", ")
}

fn position(param: usize, index: &[Index], vars: &[String]) -> String {
    let one = |i: &Index| match i {
        Index::Affine(a) => affine(a, vars),
        Index::Value(v) => format!("%{v}"),
    };
    format!("p{param}[{}]", index.iter().map(one).collect::<Vec<_>>().join(", "))
}

fn store(store: &Store, vars: &[String]) -> String {
    match &store.target {
        Target::Local(l) => format!("l{l} = result {}", store.result),
        Target::Param { param, index, fold } => {
            let fold = fold.map(|f| format!(" {}", f.name())).unwrap_or_default();
            format!("{}{fold} = result {}", position(*param, index, vars), store.result)
        }
    }
}

/// Instructions from number `first` on.
fn block(text: &mut String, depth: usize, first: usize, body: &[Instr], vars: &[String]) {
    for (n, instr) in body.iter().enumerate() {
        let n = first + n;
        let content = match instr {
            Instr::Const(c) => scalar(*c),
            Instr::Load { param, index, otherwise } => {
                let otherwise = otherwise.map(|c| format!(" else {}", scalar(c))).unwrap_or_default();
                format!("load {}{otherwise}", position(*param, index, vars))
            }
            Instr::Local(l) => format!("local l{l}"),
            Instr::Index(a) => format!("index {}", affine(a, vars)),
            Instr::Holds(g) => format!("holds {}", guards(g, vars)),
            Instr::Op(op, args) => match args.as_slice() {
                [a, b] if infix(*op) => format!("%{a} {} %{b}", op.name()),
                _ => format!("{} {}", op.name(), values(args)),
            },
            Instr::Cast(to, from) => format!("{to} %{from}"),
            Instr::Select { condition, then, otherwise } => {
                line(text, depth, format_args!("%{n} = select %{condition} {{"));
                side(text, depth + 1, n, then, vars);
                line(text, depth, format_args!("}} else {{"));
                side(text, depth + 1, n, otherwise, vars);
                line(text, depth, format_args!("}}"));
                continue;
            }
        };
        line(text, depth, format_args!("%{n} = {content}"));
    }
}

fn side(text: &mut String, depth: usize, first: usize, side: &(Vec<Instr>, usize), vars: &[String]) {
    block(text, depth, first, &side.0, vars);
    line(text, depth, format_args!("yield %{}", side.1));
}

/// Whether the operation is printed between its operands: those that are named by a sign.
pub(super) fn infix(op: ScalarOp) -> bool {
    !op.name().starts_with(|c: char| c.is_ascii_alphabetic())
}
