//! What functions hand to each other, they hand over once and whole: not the parts of a value beside it, nor one value as two arguments. What takes
//! them apart again stands in the caller, or in the next callee. So a forward function saves a projection, not its heads.

use crate::ir::*;
use crate::passes::drop_dead::only_called;
use crate::passes::loops::views::{elements, make_up, view};
use crate::passes::rebuild::{each, keep, rebuild};
use std::collections::BTreeMap;

/// In every function that is only called.
pub fn run(module: &Module) -> Module {
    take(&give(module))
}

/// A result that is a part of something the caller can have.
struct Part {
    result: usize,
    node: Node,
    of: Whole,
}

#[derive(Clone, Copy)]
enum Whole {
    Input(usize),
    Result(usize),
}

fn give(module: &Module) -> Module {
    let free = only_called(module);
    let mut module = module.clone();
    let parts: Vec<Vec<Part>> = module.functions.iter_mut().zip(free).map(|(f, free)| if free { parts(f) } else { vec![] }).collect();
    let types: Vec<Vec<Type>> = module.functions.iter().map(|f| f.results.iter().map(|(_, v)| f.ty(*v).clone()).collect()).collect();
    each(&module, &mut |f| {
        rebuild(f, &mut |new, mut node| {
            let Op::Call(callee) = node.op else { return keep(new, node) };
            let count = node.types.len();
            node.types.clone_from(&types[callee.0 as usize]);
            let operands = node.operands.clone();
            let results = keep(new, node);
            let mut values = results[..count].to_vec();
            for part in &parts[callee.0 as usize] {
                let whole = match part.of {
                    Whole::Input(n) => operands[n],
                    Whole::Result(k) => results[k],
                };
                let operands = vec![whole; part.node.operands.len()];
                values[part.result] = keep(new, Node { operands, ..part.node.clone() })[0];
            }
            values
        })
    })
}

/// The function's results that are parts; what they are parts of becomes a result where it is none and they make it up.
fn parts(f: &mut Function) -> Vec<Part> {
    let mut by_whole: BTreeMap<Value, Vec<usize>> = BTreeMap::new();
    for (k, (_, v)) in f.results.iter().enumerate() {
        let node = f.node(v.node);
        if let Some((operand, _)) = view(node)
            && node.operands.len() == 1
        {
            by_whole.entry(node.operands[operand]).or_default().push(k);
        }
    }
    let mut found = vec![];
    for (whole, parts) in by_whole {
        let known = f.results.iter().position(|(_, v)| *v == whole);
        let of = match (&f.node(whole.node).op, known) {
            (Op::Input(n), _) => Whole::Input(*n),
            (_, Some(k)) => Whole::Result(k),
            (_, None) if make_up(parts.iter().map(|k| elements(&f.ty(f.results[*k].1).shape)), &f.ty(whole).shape) => {
                f.results.push((f.node(whole.node).name.clone(), whole));
                Whole::Result(f.results.len() - 1)
            }
            (_, None) => continue,
        };
        for result in parts {
            let node = f.node(f.results[result].1.node).clone();
            found.push(Part { result, node, of });
        }
    }
    found
}

/// An argument that is given otherwise.
#[derive(Clone)]
enum Given {
    /// The same as this earlier one.
    Same(usize),
    /// As part of a whole of this type, by this nest.
    Whole(Type, Nest),
}

fn take(module: &Module) -> Module {
    let free = only_called(module);
    let mut sites: Vec<Vec<(&Function, &Node)>> = vec![vec![]; module.functions.len()];
    for f in &module.functions {
        for node in &f.nodes {
            if let Op::Call(callee) = node.op {
                sites[callee.0 as usize].push((f, node));
            }
        }
    }
    let given: Vec<BTreeMap<usize, Given>> =
        sites.iter().zip(free).map(|(sites, free)| if free { arguments(sites) } else { BTreeMap::new() }).collect();
    let mut at = given.iter();
    each(module, &mut |f| {
        let own = at.next().cloned().unwrap_or_default();
        let mut inputs: BTreeMap<usize, Value> = BTreeMap::new();
        let mut retyped = f.clone();
        for (n, given) in &own {
            if let Given::Whole(ty, _) = given {
                retyped.inputs[*n].ty = ty.clone();
            }
        }
        rebuild(&retyped, &mut |new, mut node| match node.op {
            Op::Input(n) => {
                let span = node.span;
                if let Some(Given::Whole(ty, _)) = own.get(&n) {
                    node.types = vec![ty.clone()];
                }
                let value = keep(new, node)[0];
                let value = match own.get(&n) {
                    Some(Given::Same(m)) => inputs.get(m).copied().unwrap_or(value),
                    Some(Given::Whole(_, nest)) => new.nest(nest.clone(), [value], span),
                    None => value,
                };
                inputs.insert(n, value);
                vec![value]
            }
            Op::Call(callee) => {
                for (n, given) in &given[callee.0 as usize] {
                    if let Given::Whole(..) = given {
                        let part = new.node(node.operands[*n].node);
                        node.operands[*n] = part.operands[0];
                    }
                }
                keep(new, node)
            }
            _ => keep(new, node),
        })
    })
}

/// What every call site gives as a part of something, or twice.
fn arguments(sites: &[(&Function, &Node)]) -> BTreeMap<usize, Given> {
    let mut given = BTreeMap::new();
    let Some((_, first)) = sites.first() else { return given };
    // The whole that an argument is a part of, and how.
    let part = |f: &Function, value: Value| {
        let node = f.node(value.node);
        match &node.op {
            Op::Nest(nest) if view(node).is_some() && node.operands.len() == 1 => Some((node.operands[0], nest.clone())),
            _ => None,
        }
    };
    for n in 0..first.operands.len() {
        let twice = |m: &usize| sites.iter().all(|(_, call)| call.operands[*m] == call.operands[n]);
        if let Some(m) = (0..n).find(twice) {
            given.insert(n, Given::Same(m));
            continue;
        }
        let parts: Option<Vec<(Value, Nest)>> = sites.iter().map(|(f, call)| part(f, call.operands[n])).collect();
        let Some(parts) = parts else { continue };
        let types: Vec<&Type> = parts.iter().zip(sites).map(|((whole, _), (f, _))| f.ty(*whole)).collect();
        let (f, call) = sites[0];
        let whole = parts[0].0;
        let siblings = call.operands.iter().filter(|v| part(f, **v).is_some_and(|(of, _)| of == whole)).map(|v| elements(&f.ty(*v).shape));
        let worth = call.operands.contains(&whole) || make_up(siblings, &types[0].shape);
        if worth && types.iter().all(|t| t == &types[0]) && parts.iter().all(|(_, nest)| *nest == parts[0].1) {
            given.insert(n, Given::Whole(types[0].clone(), parts[0].1.clone()));
        }
    }
    given
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{parse, print, verify};
    use crate::passes::drop_dead;

    /// A pair of functions that hands over two halves hands over the whole.
    #[test]
    fn halves_are_handed_over_as_one() {
        let text = "dim B >= 1
fn @forward(x: f64[B, 4]) {
  %y[b, i]: f64[B, 4] = tanh(%x[b, i])
  %l[b, i]: f64[B, 2] = %y[b, i]
  %r[b, i]: f64[B, 2] = %y[b, i + 2]
  return %l, %r
}

fn @backward(l: f64[B, 2], r: f64[B, 2], again: f64[B, 2]) {
  %s[b, i]: f64[B, 2] = %l[b, i] * %r[b, i] + %again[b, i]
  return %s
}

fn @f(x: f64[B, 4]) {
  %a: f64[B, 2], f64[B, 2] = @forward(%x)
  %b: f64[B, 2] = @backward(%a, %a#1, %a#1)
  return %b
}

entry infer:f = @f(data x) -> (result y)
";
        let module = parse::module(text).unwrap();
        let mut new = module;
        for _ in 0..2 {
            new = drop_dead::run(&run(&new));
            verify::verify(&new).unwrap_or_else(|e| panic!("{}\n{}", e.join("\n"), print::module(&new)));
        }
        let sizes = |name: &str| {
            let f = new.function(new.find(name).unwrap());
            (f.inputs.len(), f.results.len())
        };
        assert_eq!((sizes("forward"), sizes("backward")), ((1, 1), (1, 1)), "{}", print::module(&new));
    }
}
