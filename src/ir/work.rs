//! How much arithmetic a graph asks for: what speeds are measured against.
//!
//! Only contractions count, two operations for a multiply-add, as everybody counts: elementwise work is bounded by memory. Points that a guard leaves out count too.

use crate::ir::graph::{FunctionId, Module, Op};
use crate::ir::size::Size;

/// Operations of every function, callees first; none where the number does not fit.
pub fn flops(module: &Module) -> Vec<Option<Size>> {
    let mut of: Vec<Option<Size>> = Vec::with_capacity(module.functions.len());
    for id in 0..module.functions.len() as u32 {
        let nodes = &module.function(FunctionId(id)).nodes;
        let sum = nodes.iter().try_fold(Size::default(), |sum, node| {
            let work = match &node.op {
                Op::Nest(nest) if nest.multiplies() => nest.outs.iter().chain(&nest.reds).try_fold(Size::constant(2), |p, s| p.checked_mul(s))?,
                Op::Call(callee) => of[callee.0 as usize].clone()?,
                Op::Scan(scan) => of[scan.body.0 as usize].as_ref()?.checked_mul(&scan.length)?,
                Op::Nest(_)
                | Op::Input(_)
                | Op::Constant(_)
                | Op::Place(_)
                | Op::Scatter(_)
                | Op::Sort { .. }
                | Op::Reshape
                | Op::StopGradient
                | Op::Check(_) => return Some(sum),
            };
            sum.checked_add(&work)
        });
        of.push(sum);
    }
    of
}

#[cfg(test)]
mod tests {
    use crate::driver;
    use crate::ir::{DType, Dims};

    const TEXT: &str = "nn 1
dim B, T
model Net(x: real[B, T, 8]) -> real[B, 3] {
    s = scan e in x over T from (h: zeros(B, 5)) { rnn_cell(e, h, name: \"cell\") }
    s.last.h |> linear(3)
}
";

    #[test]
    fn products_count_wherever_they_stand() {
        let load = |_: &str| Err(String::new());
        let checked = driver::check(&driver::Input { name: "t.nn", text: TEXT, load: &load, real: DType::F32, set: vec![] });
        let program = checked.program.as_ref().unwrap();
        let lowered = driver::lower(driver::graph(program), &checked.sources);
        let manifest = driver::manifest(program, &lowered, &checked.sources);
        let dims: Dims = [("B".into(), 2), ("T".into(), 7)].into();
        let step = 2 * 2 * (5 * 8 + 5 * 5);
        assert_eq!(manifest.flops["infer:Net"].eval(&dims), Ok(7 * step + 2 * 2 * 15));
    }
}
