//! Loops over time: the body becomes a function of its own.

use super::entries::bare;
use super::expr::ty;
use super::frame::{Body, Frame, Name, inputs_first};
use super::walk;
use crate::check::typed::{ExprKind, Scan};
use crate::ir::{self, DType, Node, Op, Type, Value};
use crate::span::Span;
use std::collections::BTreeSet;

impl Body<'_> {
    /// The final carries, then the stacked results. States that the body updates are carried along.
    pub fn scan(&mut self, scan: &Scan, span: Span) -> Vec<Value> {
        let mut operands: Vec<Value> = scan.carries.iter().map(|(_, first, _)| self.one(first)).collect();
        let states = self.updates_in(scan);
        for w in &states {
            operands.push(self.get(Name::Latest(*w)));
        }
        for (_, sequence, _) in &scan.inputs {
            operands.push(self.one(sequence));
        }

        let outer = &self.frames[self.frames.len() - 1].f;
        let types: Vec<Type> = operands.iter().map(|v| outer.ty(*v).clone()).collect();
        let carries = scan.carries.len() + states.len();
        let mut frame = Frame::new(&format!("{}.scan", outer.name), self.instance);
        frame.time = Some((scan.site, frame.f.input("i", Type::scalar(DType::I64))));
        self.frames.push(frame);
        for (k, (local, _, _)) in scan.carries.iter().enumerate() {
            self.input(local.0 as usize, types[k].clone());
        }
        for (k, w) in states.iter().enumerate() {
            let name = bare(&self.instance.weights[*w].path);
            let value = self.f().input(&name, types[scan.carries.len() + k].clone());
            self.bind(Name::Weight(*w), value);
            self.bind(Name::Latest(*w), value);
        }
        for (k, (local, _, axis)) in scan.inputs.iter().enumerate() {
            let mut slice = types[carries + k].clone();
            slice.shape.remove(*axis);
            self.input(local.0 as usize, slice);
        }
        self.stmts(&scan.body);
        let mut results = vec![];
        for (local, _, next) in &scan.carries {
            results.push((Some(self.instance.locals[local.0 as usize].0.clone()), self.one(next)));
        }
        for w in &states {
            results.push((Some(bare(&self.instance.weights[*w].path)), self.get(Name::Latest(*w))));
        }
        for (output, _) in &scan.outputs {
            results.push((None, self.one(output)));
        }
        self.f().results = results;
        let (mut body, captures) = self.frames.pop().expect("the loop's body is under construction").finish();
        inputs_first(&mut body);

        let mut all = types[..carries].to_vec();
        for (output, axis) in &scan.outputs {
            let mut stacked = ty(&output.types[0]);
            stacked.shape.insert(*axis, scan.length.clone());
            all.push(stacked);
        }
        operands.extend(captures);
        let op = Op::Scan(ir::Scan {
            body: self.module.add(body),
            length: scan.length.clone(),
            reversed: scan.reversed,
            carries,
            inputs: scan.inputs.iter().map(|(_, _, axis)| *axis).collect(),
            outputs: scan.outputs.iter().map(|(_, axis)| *axis).collect(),
        });
        let node = self.f().push_node(Node { op, operands, types: all, name: None, span });
        let value = |k: usize| Value { node, result: k as u32 };
        for (k, w) in states.iter().enumerate() {
            self.bind(Name::Latest(*w), value(scan.carries.len() + k));
        }
        (0..scan.carries.len()).chain(carries..carries + scan.outputs.len()).map(value).collect()
    }

    /// Declares an input for a local.
    pub fn input(&mut self, local: usize, ty: Type) {
        let name = self.instance.locals[local].0.clone();
        let value = self.f().input(&name, ty);
        self.bind(Name::Local(local), value);
    }

    /// The states that a step of the loop updates, itself or through calls.
    fn updates_in(&self, scan: &Scan) -> BTreeSet<usize> {
        let (mut called, mut own) = (vec![], BTreeSet::new());
        let mut see = |e: &crate::check::typed::Expr| {
            if let ExprKind::Call { instance, weights, .. } = &e.kind {
                called.extend(self.updated[instance.0 as usize].iter().map(|w| weights[*w].0 as usize));
            }
        };
        let mut update = |w| {
            own.insert(w);
        };
        walk::stmts(&scan.body, &mut see, &mut update);
        for e in scan.carries.iter().map(|(_, _, next)| next).chain(scan.outputs.iter().map(|(e, _)| e)) {
            walk::expr(e, &mut see, &mut update);
        }
        own.extend(called);
        own
    }
}
