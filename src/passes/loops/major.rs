//! Time is the first axis of every sequence that goes into a loop or comes out of it: a step is a piece of memory then, read and written where it lies.
//! What has time elsewhere is permuted around the loop; most of that ends in the nests that compute and read it.

use super::{Loop, each, move_axis, results};
use crate::ir::*;

/// In every loop.
pub fn run(module: &Module) -> Module {
    each(module, &mut major)
}

fn major(f: &mut Function, mut l: Loop) -> (Vec<Value>, Function) {
    let (carries, span) = (l.scan.carries, l.span);
    for (value, axis) in l.operands[carries..].iter_mut().zip(&mut l.scan.inputs).filter(|(_, axis)| **axis > 0) {
        *value = move_axis(f, *value, std::mem::take(axis), 0, span);
    }
    let axes: Vec<usize> = l.scan.outputs.iter_mut().map(std::mem::take).collect();
    let id = l.push(f);
    let mut values = results(id, l.body.results.len());
    for (value, axis) in values[carries..].iter_mut().zip(axes).filter(|(_, axis)| *axis > 0) {
        *value = move_axis(f, *value, 0, axis, span);
    }
    (values, l.body)
}
