//! The program's global names: its own files' and imports' items, and the library's functions, parsed when first asked for.

use crate::check::Checker;
use crate::check::builtins;
use crate::check::value::*;
use crate::diagnostic::Diagnostic;
use crate::ir::{Dim, Size};
use crate::parse::tree::{self, FunctionKind, Item, SectionKind};
use crate::span::{FileId, Span};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// A function-like declaration.
#[derive(Clone, Debug)]
pub struct Def {
    /// Its tree.
    pub tree: Arc<tree::Function>,
    /// The library's.
    pub library: bool,
}

/// A name of the program.
#[derive(Clone, Debug)]
pub enum Global {
    /// A free dim.
    Dim(Span),
    /// A constant and its expression.
    Const(Span, Arc<tree::Expr>, Option<Box<Value>>),
    /// A function.
    Function(DefId),
    /// A section, by its position.
    Section(usize),
}

/// All global names.
#[derive(Default)]
pub struct Scope {
    /// The program's own.
    pub user: BTreeMap<Arc<str>, Global>,
    /// In source order.
    pub dims: Vec<tree::DimDecl>,
    /// In source order.
    pub consts: Vec<Arc<str>>,
    /// In source order.
    pub sections: Vec<tree::Section>,
    defs: Vec<Def>,
    library: BTreeMap<Arc<str>, DefId>,
    parsed: Vec<usize>,
    /// Constants being evaluated.
    evaluating: Vec<Arc<str>>,
}

impl Scope {
    /// The declaration.
    pub fn def(&self, id: DefId) -> &Def {
        &self.defs[id.0 as usize]
    }

    /// The program's models in source order.
    pub fn models(&self) -> Vec<(Arc<str>, DefId)> {
        let all = self.defs.iter().enumerate().filter(|(_, d)| !d.library && d.tree.kind == FunctionKind::Model);
        all.map(|(i, d)| (d.tree.name.name.clone(), DefId(i as u32))).collect()
    }

    /// The program's functions in source order.
    pub fn own(&self) -> Vec<DefId> {
        self.defs.iter().enumerate().filter(|(_, d)| !d.library).map(|(i, _)| DefId(i as u32)).collect()
    }

    /// Functions' and other global names, for proposals.
    pub fn names(&self, library_only: bool) -> Vec<&str> {
        let user = self.user.keys().map(|k| &**k).filter(|_| !library_only);
        user.chain(library_index().keys().map(|k| &**k)).collect()
    }

    fn add(&mut self, tree: Box<tree::Function>, library: bool) -> DefId {
        self.defs.push(Def { tree: Arc::from(tree), library });
        DefId(self.defs.len() as u32 - 1)
    }
}

/// Which file of the library declares a name. Found by the first words of lines, so that nothing is parsed without need.
fn library_index() -> &'static BTreeMap<&'static str, usize> {
    static INDEX: OnceLock<BTreeMap<&'static str, usize>> = OnceLock::new();
    INDEX.get_or_init(|| {
        let mut index = BTreeMap::new();
        for (i, (_, text)) in crate::std::FILES.iter().enumerate() {
            for line in text.lines() {
                let Some((word, rest)) = line.split_once(' ') else { continue };
                if matches!(word, "model" | "block" | "layer" | "fn" | "init" | "loss" | "metric" | "optimizer" | "schedule") {
                    let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
                    index.insert(&rest[..end], i);
                }
            }
        }
        index
    })
}

/// Names that mean a value of the language everywhere.
pub(super) const WORDS: &[&str] = &["PI", "inf", "training"];

impl Checker<'_> {
    /// Parses the root and everything it imports, and collects the names.
    pub(super) fn load(&mut self, root: FileId, loader: &dyn Fn(&str) -> Result<String, String>) {
        let mut done = Vec::new();
        self.load_file(root, loader, &mut done, &mut vec![]);
    }

    fn load_file(&mut self, id: FileId, loader: &dyn Fn(&str) -> Result<String, String>, done: &mut Vec<String>, open: &mut Vec<String>) {
        let text = self.sources.get(id).text.clone();
        let (file, found) = crate::parse::parse(&text, id);
        self.diagnostics.extend(found);
        for item in file.items {
            match item {
                Item::Import { path, span } => self.import(&path, span, loader, done, open),
                Item::Dim(dims) => {
                    for d in dims {
                        if self.declare(&d.name, Global::Dim(d.name.span)) {
                            self.scope.dims.push(d);
                        }
                    }
                }
                Item::Const(consts) => {
                    for (name, value) in consts {
                        if self.declare(&name, Global::Const(name.span, Arc::new(value), None)) {
                            self.scope.consts.push(name.name);
                        }
                    }
                }
                Item::Function(f) => {
                    if builtins::is_taken(&f.name.name) {
                        let d = Diagnostic::error(
                            "E0214",
                            format!("`{}` is built in", f.name.name),
                            f.name.span,
                            "a function of the language has this name",
                        );
                        self.report(d.note("only the library's functions can be replaced by the program's own; give this one another name"));
                    }
                    let (name, id) = (f.name.clone(), self.scope.add(f, false));
                    self.declare(&name, Global::Function(id));
                }
                Item::Section(s) => {
                    let n = self.scope.sections.len();
                    if self.declare(&s.name, Global::Section(n)) {
                        self.scope.sections.push(s);
                    }
                }
            }
        }
    }

    fn import(&mut self, path: &str, span: Span, loader: &dyn Fn(&str) -> Result<String, String>, done: &mut Vec<String>, open: &mut Vec<String>) {
        // Files are addressed from the root's folder, whatever the file that imports.
        let mut parts: Vec<&str> = Vec::new();
        let outside = path.starts_with(['/', '\\', '~']) || path.contains(':') || path.contains('\\');
        let mut left = outside;
        for part in path.split('/') {
            match part {
                "" | "." => {}
                ".." => left |= parts.pop().is_none(),
                _ => parts.push(part),
            }
        }
        if left {
            let d = Diagnostic::error("E0208", format!("the import \"{path}\" leaves the program's folder"), span, "outside");
            self.report(d.note("imports are paths below the folder of the program's first file"));
            return;
        }
        let path = parts.join("/");
        if open.contains(&path) {
            let ring = open.iter().skip_while(|p| **p != path).chain([&path]).map(String::as_str).collect::<Vec<_>>().join(" -> ");
            self.wrong("E0207", format!("the imports go round in a circle: {ring}"), span, "closes the circle");
            return;
        }
        if done.contains(&path) {
            return;
        }
        match loader(&path) {
            Ok(text) => {
                let id = self.sources.add(&path, &text);
                open.push(path.clone());
                self.load_file(id, loader, done, open);
                open.pop();
                done.push(path);
            }
            Err(reason) => {
                self.wrong("E0209", format!("the import \"{path}\" cannot be read: {reason}"), span, "imported here");
            }
        }
    }

    fn declare(&mut self, name: &tree::Ident, global: Global) -> bool {
        if WORDS.contains(&&*name.name) && !matches!(global, Global::Section(_)) {
            let d = Diagnostic::error("E0214", format!("`{}` is built in", name.name), name.span, "the language gives this name its meaning");
            self.report(d.note("give this one another name"));
            return false;
        }
        let old = match self.scope.user.get(&name.name) {
            None => {
                self.scope.user.insert(name.name.clone(), global);
                return true;
            }
            Some(old) => self.global_span(old),
        };
        self.report(Diagnostic::error("E0202", format!("`{}` is declared twice", name.name), name.span, "again here").label(old, "first here"));
        false
    }

    fn global_span(&self, global: &Global) -> Span {
        match global {
            Global::Dim(s) | Global::Const(s, ..) => *s,
            Global::Function(id) => self.scope.def(*id).tree.name.span,
            Global::Section(n) => self.scope.sections[*n].name.span,
        }
    }

    /// Where a global name was declared.
    pub(super) fn declared_at(&self, name: &str) -> Option<Span> {
        self.scope.user.get(name).map(|g| self.global_span(g))
    }

    /// The function that a name means: the program's, else the library's.
    pub(super) fn function(&mut self, name: &str, library: bool) -> Option<DefId> {
        if !library && let Some(Global::Function(id)) = self.scope.user.get(name) {
            return Some(*id);
        }
        if let Some(id) = self.scope.library.get(name) {
            return Some(*id);
        }
        let file = *library_index().get(name)?;
        if !self.scope.parsed.contains(&file) {
            self.scope.parsed.push(file);
            let (path, text) = crate::std::FILES[file];
            let id = self.sources.add_library(path, text);
            let (tree, found) = crate::parse::parse(text, id);
            self.diagnostics.extend(found);
            for item in tree.items {
                if let Item::Function(f) = item {
                    let (name, id) = (f.name.name.clone(), self.scope.add(f, true));
                    self.scope.library.insert(name, id);
                }
            }
        }
        self.scope.library.get(name).copied()
    }

    /// The value of a global name that is no function.
    pub(super) fn global(&mut self, name: &str) -> Option<Value> {
        let (span, tree) = match self.scope.user.get(name)? {
            Global::Dim(_) => return Some(Value::Static(Static::Int(Size::dim(name)))),
            Global::Const(_, _, Some(value)) => return Some((**value).clone()),
            Global::Const(span, tree, None) => (*span, tree.clone()),
            Global::Function(_) | Global::Section(_) => return None,
        };
        if self.scope.evaluating.iter().any(|n| &**n == name) {
            return Some(self.wrong("E0203", format!("the constant `{name}` is defined by itself"), span, "needs its own value"));
        }
        self.scope.evaluating.push(name.into());
        let mut body = Body::new(name.into(), false, self.options.real, false);
        let mut value = self.expr(&mut body, &tree);
        self.scope.evaluating.pop();
        if !matches!(value, Value::Static(_) | Value::Poison) {
            value = self.wrong("E0204", format!("`{name}` is not a constant"), tree.span, format!("this is {}", value.describe()));
        }
        if let Value::Static(Static::Float(x)) = value
            && x.is_nan()
        {
            value = self.wrong("E0204", format!("the constant `{name}` is not a number"), tree.span, "this has no value");
        }
        if let Some(Global::Const(_, _, slot)) = self.scope.user.get_mut(name) {
            *slot = Some(Box::new(value.clone()));
        }
        Some(value)
    }

    /// Dims with their bounds; all constants, used or not.
    pub(super) fn check_dims(&mut self) {
        for name in self.scope.consts.clone() {
            self.global(&name);
        }
        for d in self.scope.dims.clone() {
            let min = d.min.as_ref().map_or(Some(1), |e| self.whole(e));
            let max = d.max.as_ref().map(|e| self.whole(e));
            let (Some(min), max @ (None | Some(Some(_)))) = (min, max) else { continue };
            let max = max.flatten();
            if min < 0 || max.is_some_and(|m| m < min) {
                let label = match max {
                    Some(m) if m < min => format!("at least {min} and at most {m}"),
                    _ => format!("at least {min}, but sizes are not negative"),
                };
                self.wrong("E0303", format!("the dim `{}` cannot have any size", d.name.name), d.name.span, label);
                continue;
            }
            self.program.dims.push(Dim { name: d.name.name.clone(), min, max });
        }
    }

    /// A whole number without dims.
    pub(super) fn whole(&mut self, e: &tree::Expr) -> Option<i64> {
        let mut body = Body::new("".into(), false, self.options.real, false);
        match self.expr(&mut body, e) {
            Value::Static(Static::Int(s)) if s.as_const().is_some() => s.as_const(),
            Value::Poison => None,
            other => {
                self.wrong("E0305", "a whole number is needed here", e.span, format!("this is {}", other.describe()));
                None
            }
        }
    }

    /// The sections of a kind, in source order.
    pub(super) fn sections(&self, kind: SectionKind) -> Vec<tree::Section> {
        self.scope.sections.iter().filter(|s| s.kind == kind).cloned().collect()
    }
}
