//! A graph to look at: an entry's nodes, calls as frames, what is stored beside who reads it.
//!
//! In: a verified module. Out: a [`Picture`] of the entries that are wanted. With `fused`, nests that become one kernel are in one frame.

use crate::ir::{Function, FunctionId, Module, Node, NodeId, Op, Value, print};
use crate::kernel::fuse::{self, Unit};
use nnc_runtime::manifest::{Sink, Source};
use nnc_runtime::picture::{Kind, Picture};
use std::collections::BTreeMap;

/// Longer formulas are cut: the whole one is shown to who points at the box.
const LONGEST: usize = 46;

/// The entries among `names` that a picture shows: those with `only` in their name, else what infers, else what trains, else all.
pub fn wanted<'a>(names: impl Iterator<Item = &'a str> + Clone, only: Option<&str>) -> Vec<&'a str> {
    let with = |word: &str| names.clone().filter(|n| n.contains(word)).collect::<Vec<_>>();
    match only {
        Some(word) => with(word),
        None => [with("infer:"), with("train:")].into_iter().find(|found| !found.is_empty()).unwrap_or_else(|| with("")),
    }
}

/// The picture of the module's wanted entries.
pub fn module(module: &Module, only: Option<&str>, fused: bool) -> Picture {
    let wanted = wanted(module.entries.iter().map(|e| &*e.name), only);
    let mut drawer = Drawer { module, fused, picture: Picture { title: wanted.join(", "), ..Picture::default() }, stored: BTreeMap::new() };
    for entry in module.entries.iter().filter(|e| wanted.contains(&&*e.name)) {
        let group = if wanted.len() > 1 { Some(drawer.picture.group(&entry.name, None)) } else { None };
        let f = module.function(entry.function);
        let given = f.inputs.iter().zip(&entry.inputs).map(|(input, source)| {
            let name = match source {
                Source::Tensor(path) => return Given::Stored(path.to_string(), print::ty(&input.ty)),
                Source::Data(name) | Source::Scalar(name) => name.to_string(),
                Source::Step => "step".into(),
                Source::Key => "key".into(),
            };
            Given::Input(name, print::ty(&input.ty))
        });
        let given: Vec<Given> = given.collect();
        let results = drawer.body(entry.function, given, group);
        for (given, sink) in results.into_iter().zip(&entry.results) {
            let name = match sink {
                Sink::Result(name) => name.to_string(),
                Sink::Tensor(name) => format!("new {name}"),
                Sink::Accumulate(name) => format!("sum of {name}"),
            };
            let node = drawer.picture.node(vec![name], String::new(), Kind::Result, group);
            drawer.join(&given, node, group);
        }
        drawer.stored.clear();
    }
    drawer.picture
}

/// Where a value comes from, with its type.
#[derive(Clone)]
enum Given {
    /// A box that is drawn.
    Made(usize, String),
    /// A stored tensor, drawn where it is read.
    Stored(String, String),
    /// An input of the entry, drawn once it is read.
    Input(String, String),
}

struct Drawer<'a> {
    module: &'a Module,
    fused: bool,
    picture: Picture,
    /// What is drawn of inputs and, frame by frame, of stored tensors.
    stored: BTreeMap<(Option<usize>, String), usize>,
}

impl Drawer<'_> {
    fn join(&mut self, given: &Given, to: usize, group: Option<usize>) {
        let (from, ty) = match given {
            Given::Made(node, ty) => (*node, ty),
            Given::Stored(name, ty) => (self.beside(group, name, Kind::Parameter), ty),
            Given::Input(name, ty) => (self.beside(None, name, Kind::Input), ty),
        };
        self.picture.edge(from, to, ty);
    }

    fn beside(&mut self, group: Option<usize>, name: &str, kind: Kind) -> usize {
        let picture = &mut self.picture;
        *self.stored.entry((group, name.to_string())).or_insert_with(|| picture.node(vec![name.into()], String::new(), kind, group))
    }

    /// Draws a function's nodes on these inputs; gives its results.
    fn body(&mut self, id: FunctionId, inputs: Vec<Given>, group: Option<usize>) -> Vec<Given> {
        let f = self.module.function(id);
        let live = fuse::live(f);
        let mut values: BTreeMap<Value, Given> = BTreeMap::new();
        for (id, node) in f.iter() {
            if let Op::Input(n) = node.op {
                values.insert(Value { node: id, result: 0 }, inputs[n].clone());
            }
        }
        let units =
            if self.fused { fuse::fuse(f).units } else { f.iter().filter(|(id, _)| live[id.0 as usize]).map(|(id, _)| Unit::Node(id)).collect() };
        for unit in units {
            match unit {
                Unit::Node(id) => self.one(f, id, &mut values, group),
                Unit::Group(members) => {
                    let sizes: Vec<String> = fuse::nest_of(f, members.nodes[0]).outs[..members.outer].iter().map(|s| s.to_string()).collect();
                    let frame = self.picture.group(&format!("kernel over [{}]", sizes.join(", ")), group);
                    members.nodes.iter().for_each(|id| self.one(f, *id, &mut values, Some(frame)));
                }
            }
        }
        f.results.iter().map(|(_, v)| values[v].clone()).collect()
    }

    fn one(&mut self, f: &Function, id: NodeId, values: &mut BTreeMap<Value, Given>, group: Option<usize>) {
        let node = f.node(id);
        let operands: Vec<Given> = node.operands.iter().map(|v| values[v].clone()).collect();
        let made = match &node.op {
            Op::Input(_) => return,
            Op::Call(callee) => {
                let name = instance(&self.module.function(*callee).name, &operands);
                let frame = self.picture.group(&name, group);
                self.body(*callee, operands, Some(frame))
            }
            Op::Scan(scan) => {
                let back = if scan.reversed { ", backwards" } else { "" };
                let frame = self.picture.group(&format!("{} times{back}", scan.length), group);
                let position = self.picture.node(vec!["position".into()], String::new(), Kind::Constant, Some(frame));
                let inputs = [vec![Given::Made(position, "i64".into())], operands].concat();
                self.body(scan.body, inputs, Some(frame))
            }
            op => {
                let kind = if matches!(op, Op::Constant(_)) { Kind::Constant } else { Kind::Operation };
                let about = print::node(self.module, f, id);
                let drawn = self.picture.node(lines(node, &about), about.trim().into(), kind, group);
                operands.iter().for_each(|given| self.join(given, drawn, group));
                node.types.iter().map(|ty| Given::Made(drawn, print::ty(ty))).collect()
            }
        };
        // A loop's results keep the types that they have outside.
        for (n, given) in made.into_iter().enumerate() {
            let given = match (given, node.types.get(n)) {
                (Given::Made(drawn, _), Some(ty)) => Given::Made(drawn, print::ty(ty)),
                (other, _) => other,
            };
            values.insert(Value { node: id, result: n as u32 }, given);
        }
    }
}

/// A frame's name: the function, and whose parameters it reads.
fn instance(function: &str, operands: &[Given]) -> String {
    let mut paths = operands.iter().filter_map(|g| if let Given::Stored(path, _) = g { Some(path.as_str()) } else { None });
    let Some(first) = paths.next() else { return function.into() };
    let mut common: Vec<&str> = first.split('.').collect();
    common.pop();
    for path in paths {
        let same = common.iter().zip(path.split('.')).take_while(|(a, b)| **a == *b).count();
        common.truncate(same);
    }
    if common.is_empty() { function.into() } else { format!("{} ({function})", common.join(".")) }
}

/// What is written in a box: the value's name, as stages print it, and the operation; then the formula.
fn lines(node: &Node, about: &str) -> Vec<String> {
    let name = about.trim().split(['[', ':', ' ']).next().unwrap_or_default();
    let formula = about.split_once(" = ").map_or("", |(_, right)| right).trim();
    let cut = if formula.chars().count() > LONGEST { formula.chars().take(LONGEST - 1).chain(['…']).collect() } else { formula.to_string() };
    [format!("{name} = {}", fuse::word(&node.op)), cut].into_iter().filter(|l| !l.is_empty()).collect()
}
