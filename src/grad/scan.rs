//! Derivatives of loops.
//!
//! The forward loop also stacks what a step's derivative needs. The backward loop runs the other way: it carries the cotangents of the carries
//! and the sums of the constants' cotangents, and stacks the cotangents of the sequences' elements.

use crate::grad::Grad;
use crate::grad::call::{Request, Residual};
use crate::grad::nest::add;
use crate::grad::points::zeros;
use crate::ir::{DType, Function, Module, Node, NodeId, Op, Scan, Size, Type, Value};
use crate::span::Span;

/// The type of a stack of `length` elements along `axis`.
fn stacked(element: &Type, length: &Size, axis: usize) -> Type {
    let mut shape = element.shape.clone();
    shape.insert(axis, length.clone());
    Type::new(element.dtype, shape)
}

/// Where a value that the backward step needs comes from.
enum Source {
    /// The position along time.
    Position,
    /// An element of the sequence, with its axis of time.
    Slice(Value, usize),
    /// The same every step.
    Constant(Value),
}

impl Grad {
    /// The contributions of a scan.
    pub(super) fn scan(&mut self, module: &mut Module, f: &mut Function, id: NodeId, active: &[bool], dys: &[Option<Value>]) -> Vec<(Value, Value)> {
        let node = f.node(id).clone();
        let Op::Scan(scan) = &node.op else { panic!("not a scan: {node:?}") };
        let (carries, slices, span) = (scan.carries, scan.inputs.len(), node.span);
        let inputs = self.active_in_scan(module, scan, active);
        let results = self.active_results(module, scan.body, &inputs);
        let given = (0..results.len()).map(|k| results[k] && (k < carries || dys[k].is_some())).collect();
        let body = module.function(scan.body).clone();
        let pair = self.pair(module, Request { function: scan.body, active: inputs.clone(), given, carries });
        if pair.inputs.iter().all(Option::is_none) {
            return vec![];
        }

        // The forward loop stacks what the body's forward function returns further.
        let forward = module.function(pair.forward);
        let mut outputs = scan.outputs.clone();
        for (_, v) in &forward.results[node.types.len()..] {
            f.nodes[id.0 as usize].types.push(stacked(forward.ty(*v), &scan.length, 0));
            outputs.push(0);
        }
        f.nodes[id.0 as usize].op = Op::Scan(Scan { body: pair.forward, outputs: outputs.clone(), ..scan.clone() });

        // What a backward step takes, in the order of the body's backward function.
        let source_of_residual = |r: &Residual| match *r {
            Residual::Input(0) => Source::Position,
            Residual::Input(i) if i <= carries => panic!("a carry is stacked: {body:?}"),
            Residual::Input(i) if i <= carries + slices => Source::Slice(node.operands[i - 1], scan.inputs[i - 1 - carries]),
            Residual::Input(i) => Source::Constant(node.operands[i - 1]),
            Residual::Result(k) => Source::Slice(Value { node: id, result: k as u32 }, outputs[k - carries]),
        };
        let residuals: Vec<Source> = pair.residuals.iter().map(source_of_residual).collect();
        let flowing: Vec<usize> = (0..carries).filter(|k| inputs[1 + k]).collect();
        let constants: Vec<usize> = (carries + slices..node.operands.len()).filter(|k| pair.inputs[1 + k].is_some() && active[*k]).collect();
        let sequences: Vec<usize> = (carries..carries + slices).filter(|k| pair.inputs[1 + k].is_some() && active[*k]).collect();

        let backward = module.function(pair.backward).clone();
        let mut step = Function::new(&format!("{}.step", backward.name));
        let position = step.input("i", Type::scalar(DType::I64));
        let carry_in: Vec<Value> =
            flowing.iter().map(|k| step.input(&format!("d{}", body.inputs[1 + k].name), body.inputs[1 + k].ty.clone())).collect();
        let sum_in: Vec<Value> =
            constants.iter().map(|k| step.input(&format!("d{}", body.inputs[1 + k].name), body.inputs[1 + k].ty.clone())).collect();
        let mut sequence_operands = vec![];
        let mut axes = vec![];
        let mut arguments: Vec<Option<Value>> = vec![];
        for (n, source) in residuals.iter().enumerate() {
            arguments.push(match source {
                Source::Position => Some(position),
                Source::Slice(value, axis) => {
                    sequence_operands.push(*value);
                    axes.push(*axis);
                    Some(step.input(&backward.inputs[n].name, backward.inputs[n].ty.clone()))
                }
                Source::Constant(_) => None,
            });
        }
        let mut cotangents = vec![];
        for k in &pair.given {
            cotangents.push(match (flowing.iter().position(|c| c == k), dys.get(*k).copied().flatten()) {
                (Some(c), _) => Some(carry_in[c]),
                (None, Some(dy)) if *k >= carries => {
                    let name = &backward.inputs[residuals.len() + cotangents.len()].name;
                    sequence_operands.push(dy);
                    axes.push(scan.outputs[k - carries]);
                    Some(step.input(name, body.ty(body.results[*k].1).clone()))
                }
                (None, _) => None,
            });
        }
        let mut constant_operands = vec![];
        for (n, source) in residuals.iter().enumerate() {
            if let Source::Constant(value) = source {
                constant_operands.push(*value);
                arguments[n] = Some(step.input(&backward.inputs[n].name, backward.inputs[n].ty.clone()));
            }
        }
        let mut operands: Vec<Value> = arguments.into_iter().map(|a| a.expect("every residual has a source")).collect();
        for (k, cotangent) in pair.given.iter().zip(cotangents) {
            operands.push(cotangent.unwrap_or_else(|| zeros(&mut step, &body.ty(body.results[*k].1).clone(), span)));
        }
        let call = step.call(pair.backward, &backward, operands, span);
        let found = |k: usize| pair.inputs[1 + k].map(|r| Value { node: call, result: r as u32 });
        for k in &flowing {
            let cotangent = found(*k).unwrap_or_else(|| zeros(&mut step, &body.inputs[1 + k].ty, span));
            step.results.push((Some(format!("d{}", body.inputs[1 + k].name).into()), cotangent));
        }
        for (k, before) in constants.iter().zip(&sum_in) {
            let part = found(*k).expect("only constants with a cotangent");
            let sum = add(&mut step, &[*before, part], span);
            step.results.push((Some(format!("d{}", body.inputs[1 + k].name).into()), sum));
        }
        for k in &sequences {
            step.results.push((Some(format!("d{}", body.inputs[1 + k].name).into()), found(*k).expect("only sequences with a cotangent")));
        }

        // The backward loop.
        let mut first: Vec<Value> = vec![];
        for k in &flowing {
            first.push(dys[*k].unwrap_or_else(|| zeros(f, &node.types[*k], span)));
        }
        for k in &constants {
            let ty = f.ty(node.operands[*k]).clone();
            first.push(zeros(f, &ty, span));
        }
        let loop_carries = first.len();
        let operands: Vec<Value> = first.into_iter().chain(sequence_operands).chain(constant_operands).collect();
        let order: Vec<usize> = flowing.iter().chain(&constants).chain(&sequences).copied().collect();
        let types = order.iter().map(|k| f.ty(node.operands[*k]).clone()).collect();
        let reverse = Scan {
            body: module.add(step),
            length: scan.length.clone(),
            reversed: !scan.reversed,
            carries: loop_carries,
            inputs: axes,
            outputs: sequences.iter().map(|k| scan.inputs[k - carries]).collect(),
        };
        let call = push_scan(f, reverse, operands, types, span);
        order.iter().enumerate().filter(|(_, k)| active[**k]).map(|(r, k)| (node.operands[*k], Value { node: call, result: r as u32 })).collect()
    }
}

fn push_scan(f: &mut Function, scan: Scan, operands: Vec<Value>, types: Vec<Type>, span: Span) -> NodeId {
    f.push_node(Node { op: Op::Scan(scan), operands, types, name: None, span })
}
