//! What checking computes with: values of expressions, the instance being built, its names.

use crate::check::typed::*;
use crate::ir::{DType, Scalar, Size};
use crate::span::Span;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Index into the checker's functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DefId(pub u32);

/// A value known when compiling.
#[derive(Clone, Debug, PartialEq)]
pub enum Static {
    /// A whole number or a formula in the dims.
    Int(Size),
    /// A real number.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// Text.
    Text(Arc<str>),
}

/// The value of an expression.
#[derive(Clone, Debug)]
pub enum Value {
    /// Already reported as wrong: silences what follows from it.
    Poison,
    /// Known when compiling.
    Static(Static),
    /// A tensor; the expression has one type.
    Tensor(Expr),
    /// A scalar at one point of the comprehension around.
    Element(Num),
    /// Several values, named or not.
    Tuple(Vec<(Option<Arc<str>>, Value)>),
    /// `[a, b]`
    List(Vec<Value>),
    /// A function by its name.
    Function(DefId),
}

/// A scalar expression with its type. A weak one (literals, indices, sizes, f64 scalars) takes the type of what it meets.
#[derive(Clone, Debug)]
pub struct Num {
    /// The expression.
    pub element: Element,
    /// Its type.
    pub dtype: DType,
    /// Adapts to the other operand.
    pub weak: bool,
    /// A class or a token: a name, not a quantity.
    pub named: bool,
}

impl Value {
    /// A whole number.
    pub fn int(n: i64) -> Value {
        Value::Static(Static::Int(Size::constant(n)))
    }

    /// What it is, for messages.
    pub fn describe(&self) -> String {
        match self {
            Value::Poison => "a mistake".into(),
            Value::Static(Static::Int(s)) => format!("the number {s}"),
            Value::Static(Static::Float(x)) => format!("the number {x}"),
            Value::Static(Static::Bool(x)) => format!("{x}"),
            Value::Static(Static::Text(x)) => format!("the text \"{x}\""),
            Value::Tensor(e) => e.types[0].to_string(),
            Value::Element(n) => format!("a single {}", n.dtype),
            Value::Tuple(parts) => format!("{} values", parts.len()),
            Value::List(parts) => format!("a list of {}", parts.len()),
            Value::Function(_) => "a function".into(),
        }
    }
}

impl Static {
    /// The number, where it is one without dims.
    pub fn number(&self) -> Option<f64> {
        match self {
            Static::Int(s) => s.as_const().map(|n| n as f64),
            Static::Float(x) => Some(*x),
            Static::Bool(_) | Static::Text(_) => None,
        }
    }
}

impl std::fmt::Display for Static {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Static::Int(s) => write!(f, "{s}"),
            Static::Float(x) => write!(f, "{x}"),
            Static::Bool(x) => write!(f, "{x}"),
            Static::Text(x) => write!(f, "\"{x}\""),
        }
    }
}

/// `[B, 64]`
pub fn shape_text(shape: &[Size]) -> String {
    format!("[{}]", shape.iter().map(Size::to_string).collect::<Vec<_>>().join(", "))
}

impl std::fmt::Display for Type {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.meaning {
            Meaning::Plain => write!(f, "{}", self.dtype)?,
            Meaning::Logits => write!(f, "logits")?,
            Meaning::Probs => write!(f, "probs")?,
            Meaning::LogProbs => write!(f, "logprobs")?,
            Meaning::Class(n) => write!(f, "class<{n}>")?,
            Meaning::Token(n) => write!(f, "token<{n}>")?,
            Meaning::Mask => write!(f, "mask")?,
        }
        if self.shape.is_empty() { Ok(()) } else { write!(f, "{}", shape_text(&self.shape)) }
    }
}

impl Type {
    /// Whether its numbers are names: of classes or of tokens.
    pub fn named(&self) -> bool {
        matches!(self.meaning, Meaning::Class(_) | Meaning::Token(_))
    }

    /// A type that stands for nothing in particular.
    pub fn plain(dtype: DType, shape: Vec<Size>) -> Type {
        Type { dtype, shape, meaning: if dtype == DType::Bool { Meaning::Mask } else { Meaning::Plain } }
    }
}

impl Expr {
    /// An expression with one result.
    pub fn one(kind: ExprKind, ty: Type, span: Span) -> Expr {
        Expr { kind, types: vec![ty], span }
    }

    /// A rank-0 literal.
    pub fn constant(value: Scalar, span: Span) -> Expr {
        Expr::one(ExprKind::Const(value), Type::plain(value.dtype(), vec![]), span)
    }

    /// The type of the only result.
    pub fn ty(&self) -> &Type {
        &self.types[0]
    }
}

/// A name's value and the place that gave it.
#[derive(Clone, Debug)]
pub struct Binding {
    /// The value.
    pub value: Value,
    /// Where it was bound.
    pub span: Span,
}

/// Names in scope. A function's outermost frame ends the search.
#[derive(Clone, Debug, Default)]
pub struct Frame {
    /// The names.
    pub names: BTreeMap<Arc<str>, Binding>,
    /// Nothing further out is visible.
    pub barrier: bool,
    /// The text is the library's: the program's own names are not visible.
    pub library: bool,
    /// The axes that `...` stands for.
    pub rest: Option<Vec<Size>>,
    /// The sizes that a function's signature names, and where.
    pub sizes: Vec<(Arc<str>, Span)>,
}

/// Where an index's range comes from.
#[derive(Clone, Debug)]
pub struct Range {
    /// The size.
    pub size: Size,
    /// The place.
    pub span: Span,
    /// `axis 2 of x`
    pub what: String,
    /// Written as `i in N`.
    pub explicit: bool,
}

/// A comprehension being elaborated. Ranges not known yet stand as dims named `#7` after the variable.
#[derive(Clone, Debug, Default)]
pub struct Comprehension {
    /// Ranges found.
    pub ranges: BTreeMap<IndexVar, Range>,
    /// Ranges used where nothing better is found: plain accesses with `else:`.
    pub fallback: BTreeMap<IndexVar, Range>,
    /// All variables in order of introduction, with their names.
    pub vars: Vec<(IndexVar, Arc<str>, Span)>,
    /// What `...` stands for at this point.
    pub rest: Option<Vec<IndexVar>>,
    /// `(h e)` in loads: the variables' ranges multiply to the size.
    pub groups: Vec<(Vec<IndexVar>, Size, Span)>,
}

/// The instance being built.
#[derive(Clone, Debug)]
pub struct Body {
    /// Of the function.
    pub name: Arc<str>,
    /// Training mode.
    pub training: bool,
    /// `training` was asked, here or in a callee.
    pub uses_mode: bool,
    /// What `real` is.
    pub real: DType,
    /// See [`Instance`].
    pub locals: Vec<(Arc<str>, Type, Span)>,
    /// See [`Instance`].
    pub weights: Vec<WeightDecl>,
    /// How many of the locals are inputs.
    pub inputs: usize,
    /// Weights by path.
    pub paths: BTreeMap<Arc<str>, Weight>,
    /// Weights declared here, by name.
    pub own: BTreeMap<Arc<str>, Weight>,
    /// Places of updates, one a state.
    pub updated: BTreeMap<Weight, Span>,
    /// Names of calls that create weights.
    pub calls: BTreeMap<Arc<str>, Span>,
    /// Statements of the innermost block.
    pub stmts: Vec<Stmt>,
    /// Scopes, innermost last.
    pub frames: Vec<Frame>,
    /// Comprehensions, innermost last. Empty: expressions are tensors.
    pub elements: Vec<Comprehension>,
    /// Next index variable.
    pub vars: u32,
    /// Next site of randomness.
    pub sites: u32,
    /// See [`Instance`].
    pub random: bool,
    /// The hand-written derivative.
    pub gradient: Option<Gradient>,
    /// Weights may not be declared here: what the function is instead.
    pub weightless: bool,
    /// An optimizer's: `update p` is its result.
    pub optimizer: bool,
    /// An initial value is computed, element by element: `zeros_like(p)` is just 0.
    pub initial: bool,
}

impl Body {
    /// An empty instance with one frame.
    pub fn new(name: Arc<str>, training: bool, real: DType, library: bool) -> Body {
        Body {
            name,
            training,
            uses_mode: false,
            real,
            locals: vec![],
            weights: vec![],
            inputs: 0,
            paths: BTreeMap::new(),
            own: BTreeMap::new(),
            updated: BTreeMap::new(),
            calls: BTreeMap::new(),
            stmts: vec![],
            frames: vec![Frame { barrier: true, library, ..Frame::default() }],
            elements: vec![],
            vars: 0,
            sites: 0,
            random: false,
            gradient: None,
            weightless: false,
            optimizer: false,
            initial: false,
        }
    }

    /// The innermost frame.
    pub fn frame(&mut self) -> &mut Frame {
        self.frames.last_mut().expect("a frame")
    }

    /// Whether names are the library's.
    pub fn library(&self) -> bool {
        self.frames.iter().rev().find(|f| f.barrier).is_some_and(|f| f.library)
    }

    /// What `...` stands for in this function.
    pub fn rest(&self) -> Option<&Vec<Size>> {
        self.frames.iter().rev().find(|f| f.barrier).and_then(|f| f.rest.as_ref())
    }

    /// The binding of a name.
    pub fn lookup(&self, name: &str) -> Option<&Binding> {
        for frame in self.frames.iter().rev() {
            if let Some(found) = frame.names.get(name) {
                return Some(found);
            }
            if frame.barrier {
                return None;
            }
        }
        None
    }

    /// Binds a name of the function's signature to a size.
    pub fn bind_size(&mut self, name: &Arc<str>, size: Size, span: Span, declared: Span) {
        self.bind(name, Value::Static(Static::Int(size)), span);
        self.frame().sizes.push((name.clone(), declared));
    }

    /// Where the function's signature names this size.
    pub fn size_at(&self, name: &str) -> Option<Span> {
        let frame = self.frames.iter().rev().find(|f| f.barrier)?;
        frame.sizes.iter().find(|(n, _)| **n == *name).map(|(_, at)| *at)
    }

    /// Binds a name in the innermost frame.
    pub fn bind(&mut self, name: &Arc<str>, value: Value, span: Span) {
        self.frame().names.insert(name.clone(), Binding { value, span });
    }

    /// A new local.
    pub fn local(&mut self, name: &str, ty: Type, span: Span) -> Local {
        self.locals.push((name.into(), ty, span));
        Local(self.locals.len() as u32 - 1)
    }

    /// The local as an expression.
    pub fn read(&self, local: Local, span: Span) -> Expr {
        Expr::one(ExprKind::Local(local), self.locals[local.0 as usize].1.clone(), span)
    }

    /// Computes `value` before what follows and gives its name: a use costs nothing.
    pub fn hoist(&mut self, name: &str, value: Expr) -> Expr {
        if matches!(value.kind, ExprKind::Local(_) | ExprKind::Weight(_) | ExprKind::Const(_)) {
            return value;
        }
        let span = value.span;
        let local = self.local(name, value.ty().clone(), span);
        self.stmts.push(Stmt::Let { targets: vec![local], value, span });
        self.read(local, span)
    }

    /// A new index variable.
    pub fn var(&mut self) -> IndexVar {
        self.vars += 1;
        IndexVar(self.vars - 1)
    }

    /// A new site of randomness.
    pub fn site(&mut self) -> u32 {
        self.sites += 1;
        self.sites - 1
    }

    /// Every visible local name, for proposals.
    pub fn names(&self) -> Vec<&str> {
        let mut all = Vec::new();
        for frame in self.frames.iter().rev() {
            all.extend(frame.names.keys().map(|k| &**k));
            if frame.barrier {
                break;
            }
        }
        all.sort_unstable();
        all
    }
}
