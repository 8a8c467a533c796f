//! Convolutions in squares, and gradients of their weights: a thread takes a square of 2x2 results, or all taps of a window, and then the one that lies
//! as many further as the grid has threads.

use crate::emit::body::{Scope, Writer};
use crate::emit::code::{V, ok};
use crate::emit::modes::Mode;
use crate::ir::{DType, Scalar, ScalarOp, Size};
use crate::kernel::contract::{Contraction, Windows};
use crate::kernel::lower::product;
use crate::kernel::winograd::{halved, transformed};
use crate::kernel::{Kernel, Stage};
use crate::math::winograd::{self, SQUARES, STEPS};
use inkwell::IntPredicate;
use inkwell::values::IntValue;

/// The box of squares or windows.
pub fn corners(c: &Contraction, kernel: &Kernel) -> Vec<Size> {
    match c.windows {
        Some(Windows::Taps) => kernel.outer[..kernel.outer.len() - 2].to_vec(),
        _ => halved(&kernel.outer),
    }
}

/// Writes the kernel's code.
pub fn write<'c>(w: &Writer<'_, 'c>, c: &Contraction) -> Result<(), String> {
    let (code, kernel, stage) = (&w.code, w.kernel, &w.kernel.stages[c.stage]);
    let (sizes, outer) = (corners(c, kernel), kernel.outer.len());
    let taps = c.windows == Some(Windows::Taps);
    let size = if taps { 3 } else { 2 };
    let locals = w.locals(1);
    let [first, threads] = w.grid();
    let add = |a: IntValue<'c>, b: IntValue<'c>| ok(code.builder.build_int_add(a, b, ""));
    code.range_by(first, w.size(&product(&sizes)), threads, |number| {
        let mut point = super::unravelled(w, &sizes, number);
        point.resize(outer, code.int(0));
        if !taps {
            point[outer - 2..].iter_mut().for_each(|at| *at = add(*at, *at));
        }
        let all = if taps { window(w, stage, c.dtype, &point)?.concat() } else { square(w, stage, c.dtype, &point)?.concat() };
        code.range(code.int(0), code.int(size * size), 1, |n| {
            // In registers: a place that is computed would be one in memory.
            let is = |m: usize| code.icmp(IntPredicate::EQ, n.into(), code.int(m as i64).into());
            let value = all.iter().enumerate().skip(1).fold(all[0], |others, (m, value)| code.select(is(m), *value, others));
            let mut point = point.clone();
            let down = ok(code.builder.build_int_unsigned_div(n, code.int(size), ""));
            let beside = ok(code.builder.build_int_unsigned_rem(n, code.int(size), ""));
            (point[outer - 2], point[outer - 1]) = (add(point[outer - 2], down), add(point[outer - 1], beside));
            let inside = [outer - 2, outer - 1].map(|v| less(w, point[v], w.size(&kernel.outer[v])));
            code.only_if(ok(code.builder.build_and(inside[0], inside[1], "")), || {
                let scope = Scope { point, ranges: kernel.outer.clone(), lane: None, mask: None, within: None, locals: locals.clone() };
                kernel.stages.iter().enumerate().try_for_each(|(n, stage)| match n == c.stage {
                    true => w.results(stage, &[value], &scope, &[]),
                    false => w.stage(stage, Mode::Scalar, &scope),
                })
            })
        })
        .map(|_| ())
    })
    .map(|_| ())
}

fn less<'c>(w: &Writer<'_, 'c>, a: IntValue<'c>, b: IntValue<'c>) -> IntValue<'c> {
    ok(w.code.builder.build_int_compare(IntPredicate::SLT, a, b, ""))
}

/// What [`winograd::square`] says, at the square's first point.
fn square<'c>(w: &Writer<'_, 'c>, stage: &Stage, elem: DType, corner: &[IntValue<'c>]) -> Result<[[V<'c>; 2]; 2], String> {
    let (code, outer) = (&w.code, w.kernel.outer.len());
    let number = |x: f64| code.constant(Scalar::float(elem, x), 1);
    // The square's window reaches a point further than any window of the box.
    let ranges = further(w, stage, &[outer - 2, outer - 1, outer + 1, outer + 2]);
    let at =
        |n: usize, k: IntValue<'c>, a: usize, b: usize| factor(w, stage, n, &ranges, [corner, &[k, code.int(a as i64), code.int(b as i64)]].concat());
    let op: winograd::Apply<V<'c>> = &mut |op, args| w.op(op, &args);
    let m = sums(w, elem, w.size(&stage.reds[0]), STEPS, &mut |k| {
        let u = if transformed(stage) {
            winograd::filled(&mut |a, b| at(0, k, a, b), number(0.0))?
        } else {
            winograd::weights(number(0.5), op, winograd::filled(&mut |r, s| at(0, k, r, s), number(0.0))?)
        };
        Ok([u, winograd::image(op, winograd::filled(&mut |a, b| at(1, k, a, b), number(0.0))?)])
    })?;
    Ok(winograd::results(op, m))
}

/// What [`winograd::window`] says, at the window's first tap.
fn window<'c>(w: &Writer<'_, 'c>, stage: &Stage, elem: DType, corner: &[IntValue<'c>]) -> Result<[[V<'c>; 3]; 3], String> {
    let (code, b, outer) = (&w.code, &w.code.builder, w.kernel.outer.len());
    let number = |x: f64| code.constant(Scalar::float(elem, x), 1);
    let ranges = further(w, stage, &[outer - 2, outer - 1]);
    let [_, height, width] = [0, 1, 2].map(|n| w.size(&stage.reds[n]));
    let [_, lines, across] = [0, 1, 2].map(|n| w.size(&halved(&stage.reds)[n]));
    let at = |n: usize, taps: [IntValue<'c>; 2], point: [IntValue<'c>; 3]| {
        factor(w, stage, n, &ranges, [&corner[..outer - 2], &taps[..], &point[..]].concat())
    };
    let op: winograd::Apply<V<'c>> = &mut |op, args| w.op(op, &args);
    let m = sums(w, elem, w.size(&product(&halved(&stage.reds))), SQUARES, &mut |k| {
        let split = |n: IntValue<'c>, by: IntValue<'c>| (ok(b.build_int_unsigned_div(n, by, "")), ok(b.build_int_unsigned_rem(n, by, "")));
        let (line, x) = split(k, across);
        let (image, y) = split(line, lines);
        let [y, x] = [y, x].map(|n| ok(b.build_int_add(n, n, "")));
        // Beyond the last point that is read again, and is zero.
        let beside = |at: IntValue<'c>, n: usize, size: IntValue<'c>| {
            let own = ok(b.build_int_add(at, code.int(n as i64), ""));
            (w.lesser(own, ok(b.build_int_sub(size, code.int(1), ""))), less(w, own, size))
        };
        let mut slope = |i: usize, j: usize| -> Result<V<'c>, String> {
            let ((y, above), (x, before)) = (beside(y, i, height), beside(x, j, width));
            let value = at(0, [code.int(0); 2], [image, y, x])?;
            Ok(code.select(ok(b.build_and(above, before, "")).into(), value, number(0.0)))
        };
        let z = winograd::gradient(op, winograd::filled(&mut slope, number(0.0))?);
        let mut pixel = |r: usize, s: usize| at(1, [r, s].map(|n| code.int(n as i64)), [image, y, x]);
        Ok([winograd::image(op, winograd::filled(&mut pixel, number(0.0))?), z])
    })?;
    Ok(winograd::taps(number(0.5), op, m))
}

/// The ranges of a stage's variables, some a point longer.
fn further(w: &Writer, stage: &Stage, vars: &[usize]) -> Vec<Size> {
    let mut ranges = w.ranges(stage);
    vars.iter().for_each(|v| ranges[*v] = ranges[*v].checked_add(&Size::constant(1)).unwrap_or(Size::constant(i64::MAX)));
    ranges
}

/// A factor, which is a load, at a point.
fn factor<'c>(w: &Writer<'_, 'c>, stage: &Stage, n: usize, ranges: &[Size], point: Vec<IntValue<'c>>) -> Result<V<'c>, String> {
    let (load, mut value) = (stage.values[n], vec![]);
    let scope = Scope { point, ranges: ranges.to_vec(), lane: None, mask: None, within: None, locals: vec![] };
    w.block(&stage.body[load..=load], &scope, &mut value).map(|()| value[0])
}

/// Both factors of 16 products at a step.
type Factors<'a, 'c> = &'a mut dyn FnMut(IntValue<'c>) -> Result<[[[V<'c>; 4]; 4]; 2], String>;

/// 16 sums of `size` products, in leaves of so many. They start from -0, which adds nothing to any first leaf.
fn sums<'c>(w: &Writer<'_, 'c>, elem: DType, size: IntValue<'c>, of: i64, factors: Factors<'_, 'c>) -> Result<[[V<'c>; 4]; 4], String> {
    let code = &w.code;
    let ty = code.ty(elem.into(), 1);
    let number = |x: f64| code.constant(Scalar::float(elem, x), 1);
    let [sums, leaf] = [0, 1].map(|_| [(); 16].map(|()| code.variable(ty)));
    let some = less(w, code.int(0), size);
    let begin = code.select(some.into(), number(-0.0), number(0.0));
    sums.iter().for_each(|sum| code.set(*sum, begin));
    code.range(code.int(0), size, of, |from| {
        leaf.iter().for_each(|chain| code.set(*chain, number(0.0)));
        let to = w.lesser(size, ok(code.builder.build_int_add(from, code.int(of), "")));
        code.range(from, to, 1, |k| {
            let [u, v] = factors(k)?;
            for ((chain, u), v) in leaf.iter().zip(u.into_iter().flatten()).zip(v.into_iter().flatten()) {
                code.set(*chain, w.op(ScalarOp::Fma, &[u, v, code.get(ty, *chain)]));
            }
            Ok::<(), String>(())
        })?;
        for (sum, chain) in sums.iter().zip(&leaf) {
            code.set(*sum, w.op(ScalarOp::Add, &[code.get(ty, *sum), code.get(ty, *chain)]));
        }
        Ok::<(), String>(())
    })?;
    Ok([0, 1, 2, 3].map(|a| [0, 1, 2, 3].map(|b| code.get(ty, sums[4 * a + b]))))
}
