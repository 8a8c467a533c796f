//! `--set PATH=VALUE`: settings, arguments of optimizers and early stops, and constants replaced before anything is checked. A path begins with a recipe's name, or `train` for
//! all of them, which may be left out: `fit.batch`, `train.batch`, `batch`.

use crate::check::Checker;
use crate::check::scope::Global;
use crate::check::train::SETTINGS;
use crate::diagnostic::{Diagnostic, did_you_mean};
use crate::parse::tree::{self, Entry, ExprKind, SectionKind};
use crate::span::Span;
use std::sync::Arc;

/// What a recipe gives arguments to, as a path names it.
const CALLS: [&str; 2] = ["optimizer", "early_stop"];

impl Checker<'_> {
    /// Applies `options.set` in order.
    pub(super) fn apply_overrides(&mut self) {
        for (path, text) in self.options.set.clone() {
            self.apply_override(&path, &text);
        }
    }

    fn apply_override(&mut self, path: &str, text: &str) {
        let parts: Vec<&str> = path.split('.').collect();
        let Some(kind) = literal(text) else {
            self.bad_override(path, format!("the value `{text}` of `--set {path}` is neither a number, nor a truth, nor a text"), &[]);
            return;
        };
        match parts[..] {
            ["const", name] => {
                let Some(Global::Const(span, ..)) = self.scope.user.get(name) else {
                    let known: Vec<String> = self.scope.consts.iter().map(|n| format!("const.{n}")).collect();
                    self.bad_override(path, format!("`--set {path}`: there is no constant `{name}`"), &known);
                    return;
                };
                let span = *span;
                let value = tree::Expr { kind, span };
                self.scope.user.insert(name.into(), Global::Const(span, Arc::new(value), None));
            }
            [setting] if SETTINGS.contains(&setting) => self.for_recipes(path, "train", |section| set_entry(section, setting, kind.clone())),
            [recipe, setting] if SETTINGS.contains(&setting) => self.for_recipes(path, recipe, |section| set_entry(section, setting, kind.clone())),
            [call, argument] if CALLS.contains(&call) => {
                self.for_recipes(path, "train", |section| set_argument(section, call, argument, kind.clone()))
            }
            [recipe, call, argument] if CALLS.contains(&call) => {
                self.for_recipes(path, recipe, |section| set_argument(section, call, argument, kind.clone()))
            }
            [recipe, setting] if self.recipes().any(|r| r == recipe) => {
                let known: Vec<String> = SETTINGS.iter().map(|s| format!("{recipe}.{s}")).collect();
                self.bad_override(path, format!("`--set {path}`: there is no setting `{setting}`"), &known);
            }
            [first, rest] => {
                let known: Vec<String> = CALLS.into_iter().chain(["const"]).chain(self.recipes()).map(|first| format!("{first}.{rest}")).collect();
                self.bad_override(path, format!("`--set {path}`: nothing here is called `{first}`"), &known);
            }
            _ => {
                let known: Vec<String> = SETTINGS.iter().map(|s| s.to_string()).chain(self.longer(path)).collect();
                self.bad_override(path, format!("`--set {path}` is not a path of a setting"), &known);
            }
        }
    }

    /// What stands for recipes: `train` for all, and their names.
    fn recipes(&self) -> impl Iterator<Item = &str> {
        let named = self.scope.sections.iter().filter(|s| s.kind == SectionKind::Train).map(|s| &*s.name.name);
        std::iter::once("train").chain(named)
    }

    /// The path that ends in `name`: of a constant, or of what a recipe's optimizer or early stop is given.
    fn longer(&self, name: &str) -> Option<String> {
        let constant = self.scope.consts.iter().any(|c| &**c == name).then(|| format!("const.{name}"));
        let given = |call: &&&str| {
            let mut entries = self.scope.sections.iter().flat_map(|s| &s.entries);
            entries.any(|e| called(e, call).is_some_and(|args| args.iter().any(|a| a.name.as_ref().is_some_and(|n| &*n.name == name))))
        };
        let argument = || CALLS.iter().find(given).map(|call| format!("{call}.{name}"));
        constant.or_else(argument)
    }

    fn for_recipes(&mut self, path: &str, recipe: &str, change: impl Fn(&mut tree::Section) -> bool) {
        let mut found = false;
        let mut changed = false;
        for s in self.scope.sections.iter_mut().filter(|s| s.kind == SectionKind::Train && (recipe == "train" || &*s.name.name == recipe)) {
            found = true;
            changed |= change(s);
        }
        if !found {
            let rest = path.split_once('.').map_or("", |(_, r)| r);
            let names = self.scope.sections.iter().filter(|s| s.kind == SectionKind::Train).map(|s| s.name.name.to_string());
            let known: Vec<String> = names.chain(["train".into()]).map(|n| format!("{n}.{rest}")).collect();
            self.bad_override(path, format!("`--set {path}`: there is no recipe `{recipe}`"), &known);
        } else if !changed {
            self.bad_override(path, format!("`--set {path}`: the recipe has nothing that this is an argument of"), &[]);
        }
    }

    fn bad_override(&mut self, path: &str, message: String, known: &[String]) {
        let mut d = Diagnostic::error("E0615", message, Span::default(), "while compiling this");
        // One that ends in the word itself is meant, however long its beginning is.
        let ends = known.iter().map(String::as_str).find(|k| k.rsplit('.').next() == Some(path));
        if let Some(near) = ends.or(did_you_mean(path, known.iter().map(String::as_str))) {
            d = d.note(format!("did you mean `{near}`?"));
        } else {
            d = d.note("paths are `batch`, `optimizer.lr`, `const.H`; `fit.batch` is that of the recipe `fit` alone");
        }
        self.diagnostics.push(d);
    }
}

/// A literal as written on the command line.
fn literal(text: &str) -> Option<ExprKind> {
    let text = text.trim();
    let plain: String = text.chars().filter(|c| *c != '_').collect();
    if let Ok(n) = plain.parse::<i64>() {
        return Some(ExprKind::Int(n));
    }
    if let Some(x) = plain.strip_suffix('%').and_then(|x| x.parse::<f64>().ok()) {
        return Some(ExprKind::Float(x / 100.0));
    }
    if let Ok(x) = plain.parse::<f64>()
        && x.is_finite()
    {
        return Some(ExprKind::Float(x));
    }
    match text {
        "true" => Some(ExprKind::Bool(true)),
        "false" => Some(ExprKind::Bool(false)),
        "" => None,
        _ if text.chars().all(|c| c.is_alphanumeric() || c == '_') => Some(ExprKind::Name(text.into())),
        _ => text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).map(|t| ExprKind::Text(t.into())),
    }
}

fn set_entry(section: &mut tree::Section, setting: &str, kind: ExprKind) -> bool {
    // `epochs` and `steps` exclude each other: the later choice holds.
    let rival = match setting {
        "epochs" => "steps",
        "steps" => "epochs",
        _ => "",
    };
    section.entries.retain(|e| !matches!(e, Entry::Set { name, .. } if &*name.name == rival));
    for entry in &mut section.entries {
        if let Entry::Set { name, value, .. } = entry
            && &*name.name == setting
        {
            value.kind = kind;
            return true;
        }
    }
    let span = section.name.span;
    let name = tree::Ident { name: setting.into(), span };
    section.entries.push(Entry::Set { name, value: tree::Expr { kind, span }, ty: None });
    true
}

/// What `entry` gives to `call`, where it is that: `optimizer = sgd(..)`, `early_stop(..)`.
fn called<'e>(entry: &'e Entry, call: &str) -> Option<&'e Vec<tree::Arg>> {
    match entry {
        Entry::Set { name, value: tree::Expr { kind: ExprKind::Call { args, .. }, .. }, .. } if &*name.name == call => Some(args),
        Entry::Do(tree::Expr { kind: ExprKind::Call { callee, args }, .. }) if matches!(&callee.kind, ExprKind::Name(n) if &**n == call) => {
            Some(args)
        }
        _ => None,
    }
}

fn set_argument(section: &mut tree::Section, call: &str, argument: &str, kind: ExprKind) -> bool {
    let Some(entry) = section.entries.iter_mut().find(|e| called(e, call).is_some()) else { return false };
    let (Entry::Set { value: expr, .. } | Entry::Do(expr)) = entry;
    let span = expr.span;
    let ExprKind::Call { args, .. } = &mut expr.kind else { return false };
    let new = tree::Expr { kind, span };
    match args.iter_mut().find(|a| a.name.as_ref().is_some_and(|n| &*n.name == argument)) {
        Some(a) => a.value = new,
        None => args.push(tree::Arg { name: Some(tree::Ident { name: argument.into(), span }), value: new }),
    }
    true
}
