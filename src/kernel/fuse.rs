//! Which nests share a kernel.
//!
//! In: a function. Out: its live nodes in an order of execution, nests put into groups; and for every pair of neighbours that stay apart, why.
//! A group's nests have the same outer box, and each loads what another computed at its own outer point only. So a group may run point by
//! point, nest after nest, without changing a bit: nothing is computed twice or in another order of folding.
//!
//! First a nest joins what computes its operands; then groups over the same box become one where one reads the other, both read the same tensor,
//! or both are scalars. A contraction stays first in its group and takes nothing but maps of its own box: what follows it on its tile.

use crate::ir::{Affine, Expr, Fold, Function, Index, Nest, NodeId, Op, Size};
use std::collections::BTreeSet;
use std::fmt;

/// Kernels of many stages compile slowly and gain little.
const MAX_NODES: usize = 24;

/// Nests that share a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// In order.
    pub nodes: Vec<NodeId>,
    /// How many leading output axes are the outer box; the others are inner loops.
    pub outer: usize,
}

/// What is executed as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unit {
    /// One kernel.
    Group(Group),
    /// Any other node.
    Node(NodeId),
}

/// Why a nest did not join the group that computes one of its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It reads other outer points than its own.
    Misaligned,
    /// The group or the nest contracts, and would lose a parallel axis.
    Contraction,
    /// Something outside of the group stands between them.
    Between,
    /// The group is full.
    Full,
}

/// A pair that stays apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The nest.
    pub node: NodeId,
    /// A node of the group it did not join, one that it reads.
    pub group: NodeId,
    /// Why.
    pub reason: Reason,
}

/// The decision for one function.
#[derive(Clone, Debug, Default)]
pub struct Fused {
    /// In an order of execution; every live node that is no input is in exactly one.
    pub units: Vec<Unit>,
    /// Pairs that stay apart, in the order of the function's nodes.
    pub refusals: Vec<Refusal>,
}

/// Whether the results depend on the node.
pub fn live(f: &Function) -> Vec<bool> {
    let mut live = vec![false; f.nodes.len()];
    f.results.iter().for_each(|(_, v)| live[v.node.0 as usize] = true);
    for (id, node) in f.iter().rev() {
        if live[id.0 as usize] {
            node.operands.iter().for_each(|v| live[v.node.0 as usize] = true);
        }
    }
    live
}

/// Decides.
pub fn fuse(f: &Function) -> Fused {
    let live = live(f);
    let mut state = State { f, unit_of: vec![usize::MAX; f.nodes.len()], units: vec![] };
    let mut refusals = Vec::new();
    for (id, node) in f.iter().filter(|(id, _)| live[id.0 as usize]) {
        let unit = match &node.op {
            Op::Input(_) => continue,
            Op::Nest(nest) => {
                let (joined, refused) = state.home(id, nest);
                refusals.extend(refused);
                joined.unwrap_or_else(|| state.open(Unit::Group(Group { nodes: vec![], outer: nest.outs.len() })))
            }
            Op::Constant(_)
            | Op::Place(_)
            | Op::Scatter(_)
            | Op::Scan(_)
            | Op::Sort { .. }
            | Op::Reshape
            | Op::StopGradient
            | Op::Call(_)
            | Op::Check(_) => state.open(Unit::Node(id)),
        };
        state.unit_of[id.0 as usize] = unit;
        if let Unit::Group(group) = &mut state.units[unit] {
            group.nodes.push(id);
        }
    }
    state.merge();
    Fused { units: state.ordered(), refusals }
}

struct State<'a> {
    f: &'a Function,
    unit_of: Vec<usize>,
    units: Vec<Unit>,
}

impl State<'_> {
    fn open(&mut self, unit: Unit) -> usize {
        self.units.push(unit);
        self.units.len() - 1
    }

    fn members(&self, unit: usize) -> &[NodeId] {
        match &self.units[unit] {
            Unit::Group(group) => &group.nodes,
            Unit::Node(id) => std::slice::from_ref(id),
        }
    }

    /// The group that the nest joins: of those that compute its operands the latest that takes it.
    fn home(&mut self, id: NodeId, nest: &Nest) -> (Option<usize>, Vec<Refusal>) {
        let mut producers: Vec<NodeId> = self.f.node(id).operands.iter().map(|v| v.node).collect();
        producers.sort();
        producers.dedup();
        let mut refused = Vec::new();
        let mut asked = BTreeSet::new();
        for producer in producers.into_iter().rev() {
            let unit = self.unit_of[producer.0 as usize];
            let Some(Unit::Group(group)) = self.units.get(unit) else { continue };
            if !asked.insert(unit) {
                continue;
            }
            let verdict = match joint_outer(self.f, group, id, nest) {
                Ok(_) if self.reaches(unit, self.preds(&[id]).collect()) => Err(Reason::Between),
                verdict => verdict,
            };
            match verdict {
                Ok(outer) => {
                    if let Unit::Group(group) = &mut self.units[unit] {
                        group.outer = outer;
                    }
                    return (Some(unit), refused);
                }
                Err(reason) => refused.push(Refusal { node: id, group: producer, reason }),
            }
        }
        (None, refused)
    }

    /// Joins groups over the same box until none is left to join.
    fn merge(&mut self) {
        let mut a = 0;
        while a < self.units.len() {
            let joined = (a + 1..self.units.len()).find_map(|b| Some((b, self.joined(a, b)?)));
            let Some((b, group)) = joined else {
                a += 1;
                continue;
            };
            group.nodes.iter().for_each(|n| self.unit_of[n.0 as usize] = a);
            self.units[a] = Unit::Group(group);
            self.units.remove(b);
            self.unit_of.iter_mut().filter(|u| **u != usize::MAX && **u > b).for_each(|u| *u -= 1);
        }
    }

    /// The two units as one group, where they may be and gain by it.
    fn joined(&self, a: usize, b: usize) -> Option<Group> {
        let (Unit::Group(x), Unit::Group(y)) = (&self.units[a], &self.units[b]) else { return None };
        let f = self.f;
        let outer = common(&nest_of(f, x.nodes[0]).outs[..x.outer], &nest_of(f, y.nodes[0]).outs[..y.outer]);
        let whole = outer == x.outer && outer == y.outer;
        if x.nodes.len() + y.nodes.len() > MAX_NODES || (outer == 0 && !whole) {
            return None;
        }
        let operands = |g: &Group| g.nodes.iter().flat_map(|n| &f.node(*n).operands).copied().collect::<Vec<_>>();
        let reads = |g: &Group, unit: usize| g.nodes.iter().flat_map(|n| &f.node(*n).operands).any(|v| self.unit_of[v.node.0 as usize] == unit);
        let shares = || {
            let others = operands(y);
            operands(x).iter().any(|v| !f.ty(*v).shape.is_empty() && others.contains(v))
        };
        // Rows become inner loops only for what they hand on to each other.
        if !(reads(x, b) || reads(y, a) || (whole && (outer == 0 || shares()))) {
            return None;
        }
        // Maps only behind a contraction, and nothing before it.
        let first = match (contraction(f, x), contraction(f, y)) {
            (None, None) => None,
            (Some(dot), None) if whole && maps(f, y) && !self.reads_any(dot, y) => Some(dot),
            (None, Some(dot)) if whole && maps(f, x) && !self.reads_any(dot, x) => Some(dot),
            _ => return None,
        };
        let aligned = |g: &Group, other: &Group| g.nodes.iter().all(|n| own_points(f, *n, &other.nodes, outer));
        // A contraction keeps its parallel axes.
        let rows = |g: &Group| outer == g.outer || g.nodes.iter().all(|n| !nest_of(f, *n).multiplies());
        if !aligned(x, y) || !aligned(y, x) || !rows(x) || !rows(y) || self.path(a, b) || self.path(b, a) {
            return None;
        }
        let mut nodes: Vec<NodeId> = x.nodes.iter().chain(&y.nodes).copied().filter(|n| Some(*n) != first).collect();
        nodes.sort();
        nodes.splice(0..0, first);
        Some(Group { nodes, outer })
    }

    fn reads_any(&self, node: NodeId, group: &Group) -> bool {
        self.f.node(node).operands.iter().any(|v| group.nodes.contains(&v.node))
    }

    /// Whether `to` depends on `from` through a third unit.
    fn path(&self, from: usize, to: usize) -> bool {
        self.reaches(from, self.preds(self.members(to)).filter(|u| *u != to).collect())
    }

    /// Whether one of the `open` units other than `from` itself depends on `from`.
    fn reaches(&self, from: usize, mut open: Vec<usize>) -> bool {
        let mut seen = BTreeSet::from([from]);
        while let Some(unit) = open.pop() {
            if seen.insert(unit) {
                for before in self.preds(self.members(unit)) {
                    if before == from {
                        return true;
                    }
                    open.push(before);
                }
            }
        }
        false
    }

    /// The units that compute the nodes' operands.
    fn preds<'a>(&'a self, nodes: &'a [NodeId]) -> impl Iterator<Item = usize> + 'a {
        let operands = nodes.iter().flat_map(|n| &self.f.node(*n).operands);
        operands.map(|v| self.unit_of[v.node.0 as usize]).filter(|u| *u != usize::MAX)
    }

    /// Operands first; of those that may run, the one that ends earliest in the function's order.
    fn ordered(self) -> Vec<Unit> {
        let mut waits = vec![0; self.units.len()];
        let mut then: Vec<Vec<usize>> = vec![vec![]; self.units.len()];
        for (unit, waits) in waits.iter_mut().enumerate() {
            let preds: BTreeSet<usize> = self.preds(self.members(unit)).filter(|u| *u != unit).collect();
            *waits = preds.len();
            preds.into_iter().for_each(|p| then[p].push(unit));
        }
        let key = |unit: usize| (self.members(unit)[self.members(unit).len() - 1], unit);
        let mut ready: BTreeSet<_> = (0..self.units.len()).filter(|u| waits[*u] == 0).map(key).collect();
        let mut order = Vec::new();
        while let Some((_, unit)) = ready.pop_first() {
            order.push(unit);
            for next in &then[unit] {
                waits[*next] -= 1;
                if waits[*next] == 0 {
                    ready.insert(key(*next));
                }
            }
        }
        assert_eq!(order.len(), self.units.len(), "groups of @{} depend on each other in a circle", self.f.name);
        order.into_iter().map(|u| self.units[u].clone()).collect()
    }
}

/// The contraction that the group is the tail of: its first nest, a dot without inner loops.
fn contraction(f: &Function, group: &Group) -> Option<NodeId> {
    let nest = nest_of(f, group.nodes[0]);
    (nest.multiplies() && nest.outs.len() == group.outer).then_some(group.nodes[0])
}

/// Whether the group folds nothing and has no inner loops.
fn maps(f: &Function, group: &Group) -> bool {
    group.nodes.iter().map(|n| nest_of(f, *n)).all(|n| n.fold == Fold::None && n.outs.len() == group.outer)
}

/// Whether the node loads what `others` compute at its own point of the first `outer` axes only.
fn own_points(f: &Function, id: NodeId, others: &[NodeId], outer: usize) -> bool {
    let mut own = true;
    nest_of(f, id).body.visit(&mut |e| {
        if let Expr::Load { operand, index, .. } = e
            && others.contains(&f.node(id).operands[*operand].node)
        {
            let at = |(i, index): (usize, &Index)| matches!(index, Index::Affine(a) if *a == Affine::var(i));
            own &= index.len() >= outer && index.iter().take(outer).enumerate().all(at);
        }
    });
    own
}

/// How many outer axes the group has once the nest is in it.
fn joint_outer(f: &Function, group: &Group, id: NodeId, nest: &Nest) -> Result<usize, Reason> {
    let nests = || group.nodes.iter().map(|n| nest_of(f, *n));
    if group.nodes.len() >= MAX_NODES {
        return Err(Reason::Full);
    }
    let mut outer = common(&nests().next().expect("a group has nodes").outs[..group.outer], &nest.outs);
    nest.body.visit(&mut |e| {
        if let Expr::Load { operand, index, .. } = e
            && group.nodes.contains(&f.node(id).operands[*operand].node)
        {
            let own = |(i, index): &(usize, &Index)| matches!(index, Index::Affine(a) if *a == Affine::var(*i));
            outer = outer.min(index.iter().enumerate().take_while(own).count());
        }
    });
    let contracts = |n: &Nest| n.multiplies();
    if outer == 0 && (group.outer > 0 || !nest.outs.is_empty()) {
        Err(Reason::Misaligned)
    } else if (outer < group.outer && nests().any(contracts)) || (outer < nest.outs.len() && contracts(nest)) {
        Err(Reason::Contraction)
    } else {
        Ok(outer)
    }
}

/// The nest that a node of a group is.
pub fn nest_of(f: &Function, id: NodeId) -> &Nest {
    match &f.node(id).op {
        Op::Nest(nest) => nest,
        other => panic!("a group holds nests only, not {other:?}"),
    }
}

fn common(a: &[Size], b: &[Size]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Misaligned => "reads other points than its own",
            Reason::Contraction => "a contraction would lose a parallel axis",
            Reason::Between => "something else stands between",
            Reason::Full => "the group is full",
        })
    }
}

/// What a node does, in a word.
pub fn word(op: &Op) -> &'static str {
    match op {
        Op::Nest(nest) => nest.fold.name(),
        Op::Input(_) => "input",
        Op::Constant(_) => "constant",
        Op::Place(_) => "place",
        Op::Scatter(_) => "scatter",
        Op::Scan(_) => "scan",
        Op::Sort { .. } => "sort",
        Op::Reshape => "reshape",
        Op::StopGradient => "stop_gradient",
        Op::Call(_) => "call",
        Op::Check(_) => "check",
    }
}

/// Groups and refusals of a function, for readers.
pub fn describe(f: &Function) -> String {
    use fmt::Write;
    let fused = fuse(f);
    let label = |id: NodeId| {
        let node = f.node(id);
        let word = word(&node.op);
        match &node.name {
            Some(name) => format!("%{} {name} ({word})", id.0),
            None => format!("%{} ({word})", id.0),
        }
    };
    let mut text = format!("function @{}\n", f.name);
    for unit in &fused.units {
        let _ = match unit {
            Unit::Node(id) => writeln!(text, "  alone: {}", label(*id)),
            Unit::Group(group) => {
                let sizes: Vec<String> = nest_of(f, group.nodes[0]).outs[..group.outer].iter().map(|s| s.to_string()).collect();
                let names: Vec<String> = group.nodes.iter().map(|n| label(*n)).collect();
                writeln!(text, "  kernel over [{}]: {}", sizes.join(", "), names.join(", "))
            }
        };
    }
    for r in &fused.refusals {
        let _ = writeln!(text, "  apart: {} from {}: {}", label(r.node), label(r.group), r.reason);
    }
    text
}
