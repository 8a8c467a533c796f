//! Parameters that a recipe's loss cannot reach by differentiation: they would be trained, and never change.
//!
//! What a value depends on is followed through the typed program, callees first. Where it is not certain that a derivative is zero, it counts as one: a
//! warning is never wrong about the graph, but may be missing.

use crate::check::Checker;
use crate::check::typed::*;
use crate::diagnostic::{Diagnostic, Severity};
use crate::ir::ScalarOp;
use crate::parse::tree::{self, Entry, SectionKind};
use crate::span::Span;
use nnc_runtime::manifest::Role;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Inputs and weights of an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Reach {
    inputs: BTreeSet<usize>,
    weights: BTreeSet<u32>,
}

impl Reach {
    fn join(mut self, other: &Reach) -> Reach {
        self.inputs.extend(&other.inputs);
        self.weights.extend(&other.weights);
        self
    }
}

fn union<'a>(all: impl IntoIterator<Item = &'a Reach>) -> Reach {
    all.into_iter().fold(Reach::default(), Reach::join)
}

/// By instance and result.
struct Reached(Vec<Vec<Reach>>);

impl Reached {
    fn of(functions: &[Instance]) -> Reached {
        let mut reached = Reached(vec![]);
        for f in functions {
            let results = reached.instance(f);
            reached.0.push(results);
        }
        reached
    }

    fn instance(&self, f: &Instance) -> Vec<Reach> {
        let mut env: Vec<Reach> = vec![Reach::default(); f.locals.len()];
        for (i, input) in env.iter_mut().take(f.inputs).enumerate() {
            input.inputs.insert(i);
        }
        if let Some(gradient) = &f.gradient {
            let mut all = Reach::default();
            for (of, _) in &gradient.results {
                match of {
                    GradientOf::Input(i) => _ = all.inputs.insert(*i),
                    GradientOf::Weight(w) => _ = all.weights.insert(w.0),
                }
            }
            return f.results.iter().map(|(_, e)| if e.ty().dtype.is_float() { all.clone() } else { Reach::default() }).collect();
        }
        self.body(&f.body, &mut env);
        f.results.iter().map(|(_, e)| self.one(e, &mut env)).collect()
    }

    fn body(&self, body: &[Stmt], env: &mut Vec<Reach>) {
        for stmt in body {
            if let Stmt::Let { targets, value, .. } = stmt {
                let values = self.results(value, env);
                targets.iter().zip(values).for_each(|(local, value)| env[local.0 as usize] = value);
            }
        }
    }

    fn one(&self, e: &Expr, env: &mut Vec<Reach>) -> Reach {
        union(&self.results(e, env))
    }

    /// Of each result; what is not real has no derivative.
    fn results(&self, e: &Expr, env: &mut Vec<Reach>) -> Vec<Reach> {
        let found = self.every(e, env);
        let count = e.types.len();
        let each = if found.len() == count { found } else { vec![union(&found); count] };
        each.into_iter().zip(&e.types).map(|(reach, ty)| if ty.dtype.is_float() { reach } else { Reach::default() }).collect()
    }

    /// Of each result, or all in one.
    fn every(&self, e: &Expr, env: &mut Vec<Reach>) -> Vec<Reach> {
        let one = match &e.kind {
            ExprKind::Local(l) => env[l.0 as usize].clone(),
            ExprKind::Weight(w) => Reach { weights: BTreeSet::from([w.0]), ..Reach::default() },
            ExprKind::Const(_) | ExprKind::Size(_) | ExprKind::StopGradient(_) => Reach::default(),
            ExprKind::Comprehension { element, .. } => self.element(element, env),
            ExprKind::Op(_, args) => self.all(args, env),
            ExprKind::Cast(_, of) | ExprKind::Reshape(of) => self.one(of, env),
            ExprKind::Project(of, k) => self.results(of, env).swap_remove(*k),
            ExprKind::Concat { parts, .. } => self.all(parts, env),
            ExprKind::Write { base, piece, .. } => self.one(base, env).join(&self.one(piece, env)),
            ExprKind::Place { pieces, .. } => pieces.iter().fold(Reach::default(), |all, (piece, ..)| all.join(&self.one(piece, env))),
            ExprKind::Scatter { base, value, .. } => self.one(base, env).join(&self.element(value, env)),
            ExprKind::Sort { of, .. } => self.one(of, env),
            ExprKind::Grad { of, .. } => self.one(of, env),
            ExprKind::Scan(scan) => return self.scan(scan, env),
            ExprKind::Call { instance, args, weights, .. } => {
                let args: Vec<Reach> = args.iter().map(|a| self.one(a, env)).collect();
                let outer = |reach: &Reach| {
                    let inputs = union(reach.inputs.iter().filter_map(|i| args.get(*i)));
                    let own = reach.weights.iter().filter_map(|w| weights.get(*w as usize)).map(|w| w.0).collect();
                    inputs.join(&Reach { weights: own, ..Reach::default() })
                };
                return self.0[instance.0 as usize].iter().map(outer).collect();
            }
        };
        vec![one]
    }

    fn all(&self, parts: &[Expr], env: &mut Vec<Reach>) -> Reach {
        parts.iter().fold(Reach::default(), |all, e| all.join(&self.one(e, env)))
    }

    /// Around the loop until nothing new is reached.
    fn scan(&self, scan: &Scan, env: &mut Vec<Reach>) -> Vec<Reach> {
        for (local, sequence, _) in &scan.inputs {
            env[local.0 as usize] = self.one(sequence, env);
        }
        for (local, first, _) in &scan.carries {
            env[local.0 as usize] = self.one(first, env);
        }
        loop {
            self.body(&scan.body, env);
            let next: Vec<Reach> = scan.carries.iter().map(|(local, _, next)| env[local.0 as usize].clone().join(&self.one(next, env))).collect();
            let stable = scan.carries.iter().zip(&next).all(|((local, ..), next)| env[local.0 as usize] == *next);
            scan.carries.iter().zip(&next).for_each(|((local, ..), next)| env[local.0 as usize] = next.clone());
            if stable {
                let outputs: Vec<Reach> = scan.outputs.iter().map(|(e, _)| self.one(e, env)).collect();
                return next.into_iter().chain(outputs).collect();
            }
        }
    }

    fn element(&self, e: &Element, env: &mut Vec<Reach>) -> Reach {
        match e {
            Element::Const(_) | Element::Size(_) | Element::Index(_) | Element::Random { .. } => Reach::default(),
            Element::Load { tensor, .. } => self.one(tensor, env),
            Element::Fold { fold: FoldKind::ArgMax | FoldKind::ArgMin, .. } => Reach::default(),
            Element::Fold { body, .. } => self.element(body, env),
            // The condition chooses, and has no derivative.
            Element::Op(ScalarOp::Select, args) => args.iter().skip(1).fold(Reach::default(), |all, a| all.join(&self.element(a, env))),
            Element::Op(_, args) => args.iter().fold(Reach::default(), |all, a| all.join(&self.element(a, env))),
            Element::Cast(dtype, of) => {
                if dtype.is_float() {
                    self.element(of, env)
                } else {
                    Reach::default()
                }
            }
        }
    }
}

impl Checker<'_> {
    /// Trained parameters without a path to the loss. Those that nothing reads at all have been spoken of.
    pub(in crate::check) fn warn_of_unreached_parameters(&mut self) {
        let reached = Reached::of(&self.instances);
        let dead: Vec<Span> = self.diagnostics.iter().filter(|d| d.severity == Severity::Warning).map(|d| d.labels[0].0).collect();
        let spoken = |span: Span| dead.iter().any(|d| d.file == span.file && span.start <= d.start && d.end <= span.end);
        for at in 0..self.program.recipes.len() {
            let Recipe { settings, train, span, .. } = self.program.recipes[at].clone();
            let instance = self.instance(train);
            let of_loss = |name: &Option<Arc<str>>| name.as_ref().is_some_and(|n| n.starts_with("loss."));
            let results = instance.results.iter().zip(&reached.0[train.0 as usize]);
            let loss = union(results.filter(|((name, _), _)| of_loss(name)).map(|(_, reach)| reach));
            let missing = |(i, w): &(usize, &WeightDecl)| {
                w.role == Role::Parameter && !loss.weights.contains(&(*i as u32)) && !settings.frozen.contains(&w.path) && !spoken(w.span)
            };
            let missing: Vec<WeightDecl> = instance.weights.iter().enumerate().filter(missing).map(|(_, w)| w.clone()).collect();
            let Some(first) = missing.first() else { continue };
            let names: Vec<Arc<str>> = missing.iter().map(|w| w.path.clone()).collect();
            let shown = if names.len() > 4 { format!("`{}` and {} more", names[0], names.len() - 1) } else { crate::check::listed(&names) };
            let at = self.loss_of(&settings.name).unwrap_or(span);
            let message = format!("the loss of `{}` does not depend on {shown}", settings.name);
            let mut d = Diagnostic::warning("W0502", message, at, "has no gradient for it");
            if !first.span.in_library() {
                d = d.label(first.span, "declared here");
            }
            // The whole layer, where all of it is meant.
            let layer = first.path.rsplit_once('.').map_or("", |(layer, _)| layer);
            let below = |w: &&WeightDecl| w.role == Role::Parameter && w.path.strip_prefix(layer).is_some_and(|rest| rest.starts_with('.'));
            let all = self.instance(train).weights.iter().filter(below).all(|w| names.contains(&w.path));
            let layer = if all && !layer.is_empty() { layer } else { &first.path };
            self.report(d.note(format!("it would not be trained: use it in the loss, leave it out, or say so: `freeze({layer})`")));
        }
    }

    /// Where a recipe's loss stands.
    fn loss_of(&self, recipe: &str) -> Option<Span> {
        let sections = self.sections(SectionKind::Train);
        let section: &tree::Section = sections.iter().find(|s| &*s.name.name == recipe)?;
        section.entries.iter().find_map(|e| match e {
            Entry::Set { name, value, .. } if &*name.name == "loss" => Some(value.span),
            _ => None,
        })
    }
}
