//! What a loop hands on, it hands on once: the parts of one value as that value. What takes them apart again stands after the loop, and inside the
//! next one.

use super::{Loop, Outside, Source, Time, each, lift, results};
use crate::ir::*;
use crate::passes::rebuild::{keep, rebuild};
use std::collections::BTreeMap;

/// In every loop.
pub fn run(module: &Module) -> Module {
    each(&each(module, &mut give), &mut take)
}

/// Where a nest that only reads elements of one operand at affine places reads them.
pub fn view(node: &Node) -> Option<(usize, Vec<Affine>)> {
    let Op::Nest(Nest { fold: Fold::None, guards, body: Expr::Load { operand, index, otherwise: None }, .. }) = &node.op else { return None };
    let affine = |i: &Index| match i {
        Index::Affine(a) => Some(a.clone()),
        Index::Gather(_) => None,
    };
    let index: Option<Vec<Affine>> = index.iter().map(affine).collect();
    index.filter(|_| guards.is_empty()).map(|index| (*operand, index))
}

/// The product of the sizes.
pub fn elements(shape: &[Size]) -> Size {
    shape.iter().fold(Size::constant(1), |p, s| p.checked_mul(s).unwrap_or_default())
}

/// Whether parts of these shapes are at least as much as the whole.
pub fn make_up(parts: impl Iterator<Item = Size>, whole: &[Size]) -> bool {
    let sum = parts.fold(Size::default(), |sum, part| sum.checked_add(&part).unwrap_or_default());
    (&sum - &elements(whole)).terms().iter().all(|(_, n)| *n >= 0)
}

/// Results that are parts of one value.
fn give(f: &mut Function, mut l: Loop) -> (Vec<Value>, Function) {
    let (carries, count) = (l.scan.carries, l.body.results.len());
    let used = l.used.clone();
    let stacked: Vec<usize> = (carries..count).filter(|k| used[*k]).collect();
    let mut parts: BTreeMap<Value, Vec<usize>> = BTreeMap::new();
    for k in &stacked {
        let node = l.body.node(l.body.results[*k].1.node);
        if let Some((operand, _)) = view(node) {
            parts.entry(node.operands[operand]).or_default().push(*k);
        }
    }
    let mut views: Vec<(usize, Node, Source)> = vec![];
    for (value, parts) in parts {
        let there =
            matches!(l.body.node(value.node).op, Op::Input(n) if l.input(n).is_some()) || stacked.iter().any(|k| l.body.results[*k].1 == value);
        let shapes = parts.iter().map(|k| elements(&l.body.ty(l.body.results[*k].1).shape));
        if there || make_up(shapes, &l.body.ty(value).shape) {
            for k in parts {
                let node = l.body.node(l.body.results[k].1.node).clone();
                let source = l.expose(value);
                views.push((k, node, source));
            }
        }
    }
    let id = l.push(f);
    let mut values = results(id, count);
    for (k, node, source) in views {
        let mut operands = vec![Outside::Position; node.operands.len()];
        let (operand, _) = view(&node).expect("a view");
        operands[operand] = l.outside(source, id);
        values[k] = lift(f, &node, &operands, Time::Out(l.scan.outputs[k - carries]), &l.scan.length);
    }
    (values, l.body)
}

/// Sequences that are parts of one.
fn take(f: &mut Function, mut l: Loop) -> (Vec<Value>, Function) {
    let carries = l.scan.carries;
    // Sequence, what it views, with which axis as time, and the index there.
    let mut found: Vec<(usize, Value, usize, Vec<Affine>)> = vec![];
    for (n, time) in l.scan.inputs.iter().enumerate() {
        let node = f.node(l.operands[carries + n].node);
        let Some((operand, index)) = view(node) else { continue };
        let of = node.operands[operand];
        let mentions = |a: &Affine| {
            let mut found = false;
            a.visit_vars(&mut |v| found |= v == *time);
            found
        };
        let axes: Vec<usize> = (0..index.len()).filter(|a| mentions(&index[*a])).collect();
        // The same elements with time in front are no part: [`super::major`] has put them so.
        let moved = |axis: usize| *time == 0 && axis > 0 && elements(&f.ty(of).shape) == elements(&f.ty(l.operands[carries + n]).shape);
        if let [axis] = axes.as_slice()
            && index[*axis].as_var() == Some(*time)
            && f.ty(of).shape[*axis] == l.scan.length
            && !moved(*axis)
        {
            found.push((n, of, *axis, index));
        }
    }
    let slice = |f: &Function, of: Value, axis: usize| {
        let mut ty = f.ty(of).clone();
        ty.shape.remove(axis);
        ty
    };
    for (n, of, axis, index) in &found {
        let whole = slice(f, *of, *axis);
        let there = l.operands[carries..carries + l.scan.inputs.len()].iter().zip(&l.scan.inputs).any(|(v, a)| (v, a) == (of, axis));
        let parts = found.iter().filter(|(_, v, a, _)| (v, a) == (of, axis)).map(|(m, ..)| elements(&l.body.inputs[1 + carries + m].ty.shape));
        if !there && !make_up(parts, &whole.shape) {
            continue;
        }
        let (number, time) = (1 + carries + n, l.scan.inputs[*n]);
        let shape = l.body.inputs[number].ty.shape.clone();
        l.body.inputs[number].ty = whole.clone();
        (l.operands[carries + n], l.scan.inputs[*n]) = (*of, *axis);
        let at = index.iter().enumerate().filter(|(a, _)| a != axis).map(|(_, i)| i.substitute(&|v| Affine::var(if v > time { v - 1 } else { v })));
        let nest = Nest::map(shape, load(0, at.collect::<Vec<_>>()));
        l.body = rebuild(&l.body, &mut |new, mut node| {
            if node.op != Op::Input(number) {
                return keep(new, node);
            }
            node.types = vec![whole.clone()];
            let span = node.span;
            let part = keep(new, node);
            vec![new.nest(nest.clone(), part, span)]
        });
    }
    let id = l.push(f);
    (results(id, l.body.results.len()), l.body)
}
