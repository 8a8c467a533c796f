//! Launch tables as text, for readers: each buffer with where it lives and from which step to which, what it comes from, the steps, what goes out.

use crate::kernel::Kernel;
use nnc_runtime::manifest::{Entry, Part, Sink, Source, Step, Storage};
use nnc_runtime::size::Size;
use std::fmt::Write;

fn list<T>(items: &[T], show: impl Fn(&T) -> String) -> String {
    items.iter().map(show).collect::<Vec<_>>().join(", ")
}

/// The entry's buffers and steps; `kernels` are those that launches count into.
pub fn entry(entry: &Entry, kernels: &[Kernel]) -> String {
    let plan = &entry.plan;
    let mut text = format!("plan {}\n", entry.name);
    let size = |s: &Size| s.to_string();
    for (n, b) in plan.buffers.iter().enumerate() {
        let storage = match &b.storage {
            Storage::Arena => format!("arena {}..{}", b.first, b.last),
            Storage::Input => "input".into(),
            Storage::Result => format!("result {}..{}", b.first, b.last),
            Storage::Alias(of) => format!("alias b{of}"),
            Storage::Part(Part { of, start, along }) => {
                let along = along.iter().map(|(index, stride)| format!(" + b{index}*({stride})")).collect::<String>();
                format!("b{of} from {start}{along}")
            }
            Storage::Constant(data) => format!("constant of {}", data.len()),
        };
        let _ = writeln!(text, "  b{n}: {}[{}] {}, {storage}", b.dtype, list(&b.shape, size), b.name);
    }
    let buffer = |b: &u32| format!("b{b}");
    for (source, b) in &entry.inputs {
        let source = match source {
            Source::Tensor(name) => format!("tensor {name}"),
            Source::Data(name) => format!("data {name}"),
            Source::Scalar(name) => format!("scalar {name}"),
            Source::Step => "step".into(),
            Source::Key => "key".into(),
        };
        let _ = writeln!(text, "  b{b} = {source}");
    }
    if plan.advance > 0 {
        let _ = writeln!(text, "  in advance: the first {}", plan.advance);
    }
    let mut ends: Vec<usize> = vec![];
    for (n, step) in plan.steps.iter().enumerate() {
        ends.retain(|end| n <= *end);
        let indent = "  ".repeat(ends.len() + 1);
        if let Some(chain) = plan.chains.iter().find(|chain| chain.first as usize == n) {
            ends.push((chain.first + chain.steps - 1) as usize);
            let _ = writeln!(text, "{indent}in {} parts, of each thread's own {}:", chain.parts, list(&chain.own, buffer));
        }
        let indent = "  ".repeat(ends.len() + 1);
        let _ = match step {
            Step::Launch(l) => {
                let name = kernels.get(l.kernel as usize).map_or("?", |k| &k.name);
                let sizes = list(&l.sizes, size);
                let whole = if matches!(l.whole.as_const(), Some(0 | 1)) || l.whole == l.tasks { String::new() } else { format!(" by {}", l.whole) };
                let rows = l.rows.as_ref().map_or_else(String::new, |rows| format!(" rows {}", rows.count));
                let _ =
                    writeln!(text, "{indent}{n}: {name}({}) sizes [{sizes}] tasks {}{whole}{rows} cost {}", list(&l.args, buffer), l.tasks, l.cost);
                l.beside.iter().try_for_each(|c| {
                    let (args, sizes) = (list(&c.args, buffer), list(&c.sizes, size));
                    writeln!(text, "{indent}{n}  and ({args}) sizes [{sizes}] tasks {}", c.tasks)
                })
            }
            Step::Loop { count, body, index, reversed } => {
                ends.push(n + *body as usize);
                writeln!(text, "{indent}{n}: loop b{index} < {count}{}", if *reversed { " reversed" } else { "" })
            }
            Step::Copy { from, to } => writeln!(text, "{indent}{n}: copy b{from} to b{to}"),
            Step::Check { condition, message, .. } => writeln!(text, "{indent}{n}: check b{condition} or {message:?}"),
        };
    }
    for (sink, b) in &entry.results {
        let sink = match sink {
            Sink::Tensor(name) => format!("tensor {name}"),
            Sink::Result(name) => format!("result {name}"),
            Sink::Accumulate(name) => format!("sum {name}"),
        };
        let _ = writeln!(text, "  {sink} = b{b}");
    }
    text
}
