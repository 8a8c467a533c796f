//! Reads the text of [`crate::ir::print`] back: printing and then reading gives the same module but for spans.
//!
//! In: any text. Out: a module (not yet verified), or what was expected at which line.

mod expression;

use crate::ir::lex::{Token, lex};
use crate::ir::*;
use nnc_runtime::manifest::{Sink, Source};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How deep expressions may nest.
const DEPTH: usize = 200;

/// The module that `text` says.
pub fn module(text: &str) -> Result<Module, String> {
    let tokens = lex(text)?;
    let mut functions = BTreeMap::new();
    for window in tokens.windows(3) {
        if let [(Token::Word(f), _), (Token::Sign("@"), _), (Token::Word(name) | Token::Text(name), _)] = window
            && f == "fn"
        {
            functions.insert(name.clone(), FunctionId(functions.len() as u32));
        }
    }
    let mut parser = Parser { functions, ..Parser::new(tokens) };
    parser.module().map_err(|e| parser.with_line(e))?;
    Ok(parser.module)
}

pub(crate) type Parsed<T> = Result<T, String>;

/// Where a text is read; kernels are read with it too.
pub(crate) struct Parser {
    tokens: Vec<(Token, usize)>,
    pub(crate) at: usize,
    functions: BTreeMap<String, FunctionId>,
    depth: usize,
    pub(crate) module: Module,
    /// Index variables in scope.
    pub(crate) vars: Vec<String>,
    /// What the open node loads, in the order of the text.
    order: Vec<String>,
}

/// The function being read: its nodes by the name they are printed under.
struct Scope {
    f: Function,
    nodes: BTreeMap<String, NodeId>,
}

impl Scope {
    fn value(&self, key: &str) -> Parsed<Value> {
        let (name, result) = match key.rsplit_once('#') {
            Some((name, n)) if !key.ends_with('"') => (name, n.parse().map_err(|_| format!("%{key} is no value"))?),
            _ => (key, 0),
        };
        let node = *self.nodes.get(name).ok_or_else(|| format!("%{key} is not defined"))?;
        match self.f.node(node).types.len() > result as usize {
            true => Ok(Value { node, result }),
            false => Err(format!("%{key} is not defined")),
        }
    }
}

impl Parser {
    pub(crate) fn new(tokens: Vec<(Token, usize)>) -> Parser {
        Parser { tokens, at: 0, functions: BTreeMap::new(), depth: 0, module: Module::default(), vars: vec![], order: vec![] }
    }

    pub(crate) fn with_line(&self, error: String) -> String {
        let line = self.tokens.get(self.at.min(self.tokens.len().saturating_sub(1))).map_or(1, |t| t.1);
        format!("line {line}: {error}")
    }

    pub(crate) fn peek(&self) -> &Token {
        self.tokens.get(self.at).map_or(&Token::End, |t| &t.0)
    }

    pub(crate) fn next(&mut self) -> Token {
        self.at += 1;
        self.tokens.get(self.at - 1).map_or(Token::End, |t| t.0.clone())
    }

    pub(crate) fn fail<T>(&mut self, expected: &str) -> Parsed<T> {
        Err(format!("expected {expected}, found {:?}", self.peek()))
    }

    /// Whether the next token is this sign; takes it.
    pub(crate) fn sign(&mut self, sign: &str) -> bool {
        let found = matches!(self.peek(), Token::Sign(s) if *s == sign);
        self.at += usize::from(found);
        found
    }

    pub(crate) fn expect(&mut self, sign: &str) -> Parsed<()> {
        if self.sign(sign) { Ok(()) } else { self.fail(sign) }
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(self.peek(), Token::Word(w) if w == word)
    }

    pub(crate) fn word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        self.at += usize::from(found);
        found
    }

    pub(crate) fn keyword(&mut self, word: &str) -> Parsed<()> {
        if self.word(word) { Ok(()) } else { self.fail(word) }
    }

    pub(crate) fn name(&mut self) -> Parsed<Arc<str>> {
        match self.next() {
            Token::Word(w) | Token::Text(w) => Ok(w.into()),
            _ => {
                self.at -= 1;
                self.fail("a name")
            }
        }
    }

    fn function_name(&mut self) -> Parsed<FunctionId> {
        self.expect("@")?;
        let name = self.name()?;
        self.functions.get(&*name).copied().ok_or_else(|| format!("@{name} is not defined"))
    }

    fn integer(&mut self) -> Parsed<i64> {
        let minus = self.sign("-");
        match self.next() {
            Token::Number(n) => format!("{}{n}", if minus { "-" } else { "" }).parse().map_err(|_| format!("{n} is no integer")),
            _ => {
                self.at -= 1;
                self.fail("an integer")
            }
        }
    }

    pub(crate) fn natural(&mut self) -> Parsed<usize> {
        usize::try_from(self.integer()?).map_err(|_| "a count is not negative".into())
    }

    /// `item, item, ...` up to the closing sign.
    pub(crate) fn list<T>(&mut self, close: &str, item: &mut dyn FnMut(&mut Parser) -> Parsed<T>) -> Parsed<Vec<T>> {
        let mut items = Vec::new();
        while !self.sign(close) {
            if !items.is_empty() {
                self.expect(",")?;
            }
            items.push(item(self)?);
        }
        Ok(items)
    }

    fn module(&mut self) -> Parsed<()> {
        while self.word("dim") {
            let name = self.name()?;
            self.expect(">=")?;
            let min = self.integer()?;
            let max = if self.sign("<=") { Some(self.integer()?) } else { None };
            self.module.dims.push(Dim { name, min, max });
        }
        while self.word("fn") {
            let f = self.function()?;
            self.module.functions.push(f);
        }
        while self.word("entry") {
            let name = self.name()?;
            self.expect("=")?;
            let function = self.function_name()?;
            self.expect("(")?;
            let inputs = self.list(")", &mut Parser::source)?;
            self.expect("->")?;
            self.expect("(")?;
            let results = self.list(")", &mut Parser::sink)?;
            self.module.entries.push(Entry { name, function, inputs, results });
        }
        if *self.peek() == Token::End { Ok(()) } else { self.fail("a function, an entry or the end") }
    }

    fn source(&mut self) -> Parsed<Source> {
        match &*self.name()? {
            "tensor" => self.name().map(Source::Tensor),
            "data" => self.name().map(Source::Data),
            "scalar" => self.name().map(Source::Scalar),
            "step" => Ok(Source::Step),
            "key" => Ok(Source::Key),
            other => Err(format!("{other} is no source of an input")),
        }
    }

    fn sink(&mut self) -> Parsed<Sink> {
        match &*self.name()? {
            "tensor" => self.name().map(Sink::Tensor),
            "result" => self.name().map(Sink::Result),
            "accumulate" => self.name().map(Sink::Accumulate),
            other => Err(format!("{other} is no sink of a result")),
        }
    }

    fn function(&mut self) -> Parsed<Function> {
        self.expect("@")?;
        let mut scope = Scope { f: Function::new(&self.name()?), nodes: BTreeMap::new() };
        self.expect("(")?;
        scope.f.inputs = self.list(")", &mut |p| {
            let name = p.name()?;
            p.expect(":")?;
            Ok(Input { name, ty: p.ty()? })
        })?;
        self.expect("{")?;
        // Inputs without a line of their own stand first.
        let named = self.tokens[self.at..].iter().take_while(|(t, _)| *t != Token::Sign("}"));
        let tokens: Vec<&Token> = named.map(|(t, _)| t).collect();
        let explicit = |n: usize| {
            let at = |w: &[&Token]| matches!(w, [Token::Sign("="), Token::Word(i), Token::Number(k)] if i == "input" && *k == n.to_string());
            tokens.windows(3).any(at)
        };
        for n in 0..scope.f.inputs.len() {
            if !explicit(n) {
                let input = scope.f.inputs[n].clone();
                let key = node_key(&input.name, scope.f.nodes.len(), &scope.nodes);
                let node = Node { op: Op::Input(n), operands: vec![], types: vec![input.ty], name: Some(input.name), span: Default::default() };
                let id = scope.f.push_node(node);
                scope.nodes.insert(key, id);
            }
        }
        while let Token::Value(key) = self.peek().clone() {
            self.at += 1;
            self.node(&mut scope, key)?;
        }
        self.keyword("return")?;
        while !matches!(self.peek(), Token::Sign("}")) && !self.is_word("gradient") {
            if !scope.f.results.is_empty() {
                self.expect(",")?;
            }
            let name = match self.peek() {
                Token::Value(_) => None,
                _ => {
                    let name = self.name()?;
                    self.expect(":")?;
                    Some(name)
                }
            };
            let value = self.value(&scope)?;
            scope.f.results.push((name, value));
        }
        if self.word("gradient") {
            let forward = self.function_name()?;
            self.expect(",")?;
            let backward = self.function_name()?;
            self.keyword("of")?;
            self.expect("[")?;
            let wrt = self.list("]", &mut Parser::natural)?;
            scope.f.gradient = Some(CustomGradient { forward, backward, wrt });
        }
        self.expect("}")?;
        Ok(scope.f)
    }

    fn value(&mut self, scope: &Scope) -> Parsed<Value> {
        match self.next() {
            Token::Value(key) => scope.value(&key),
            _ => {
                self.at -= 1;
                self.fail("a value")
            }
        }
    }

    /// `%a, %b` as far as there are commas; may be empty.
    fn values(&mut self, scope: &Scope) -> Parsed<Vec<Value>> {
        let mut values = Vec::new();
        while matches!(self.peek(), Token::Value(_)) {
            values.push(self.value(scope)?);
            if !self.sign(",") {
                break;
            }
        }
        Ok(values)
    }

    pub(crate) fn ty(&mut self) -> Parsed<Type> {
        let dtype = match &*self.name()? {
            "f32" => DType::F32,
            "f64" => DType::F64,
            "i64" => DType::I64,
            "bool" => DType::Bool,
            other => return Err(format!("{other} is no type")),
        };
        let shape = if self.sign("[") { self.list("]", &mut Parser::size)? } else { vec![] };
        Ok(Type { dtype, shape })
    }

    fn node(&mut self, scope: &mut Scope, key: String) -> Parsed<()> {
        self.vars.clear();
        self.order.clear();
        let indexed = self.sign("[");
        if indexed {
            self.vars = self.list("]", &mut |p| Ok(p.name()?.to_string()))?;
        }
        self.expect(":")?;
        let mut types = vec![self.ty()?];
        while self.sign(",") {
            types.push(self.ty()?);
        }
        self.expect("=")?;
        let (op, operands) = self.op(scope, indexed, &mut types)?;
        let id = scope.f.push_node(Node { op, operands, types, name: node_name(&key), span: Default::default() });
        match scope.nodes.insert(key.clone(), id) {
            None => Ok(()),
            Some(_) => Err(format!("%{key} is defined twice")),
        }
    }

    fn op(&mut self, scope: &Scope, indexed: bool, types: &mut Vec<Type>) -> Parsed<(Op, Vec<Value>)> {
        if matches!(self.peek(), Token::Sign("@")) {
            let callee = self.function_name()?;
            self.expect("(")?;
            let operands = self.values(scope)?;
            self.expect(")")?;
            return Ok((Op::Call(callee), operands));
        }
        let keyword = match self.peek() {
            Token::Word(w) if !indexed => w.clone(),
            _ => String::new(),
        };
        let start = self.at;
        self.at += 1;
        match keyword.as_str() {
            "input" => Ok((Op::Input(self.natural()?), vec![])),
            "constant" => {
                self.expect("[")?;
                let values = self.list("]", &mut Parser::scalar)?;
                Ok((Op::Constant(values.into()), vec![]))
            }
            "place" => self.place(scope, types),
            "scatter" => self.scatter(scope, types),
            "scan" => self.scan(scope),
            "sort" => {
                let descending = self.word("descending");
                Ok((Op::Sort { descending }, self.values(scope)?))
            }
            "reshape" => Ok((Op::Reshape, self.values(scope)?)),
            "stop_gradient" => Ok((Op::StopGradient, self.values(scope)?)),
            "check" => {
                let operands = self.values(scope)?;
                match self.next() {
                    Token::Text(message) => Ok((Op::Check(message.into()), operands)),
                    _ => self.fail("a message"),
                }
            }
            _ => {
                self.at = start;
                self.nest(scope, types)
            }
        }
    }

    fn nest(&mut self, scope: &Scope, types: &mut Vec<Type>) -> Parsed<(Op, Vec<Value>)> {
        let outs = types[0].shape.clone();
        if outs.len() != self.vars.len() {
            return Err("a nest has one index variable an axis".into());
        }
        let bracket = matches!(self.tokens.get(self.at + 1), Some((Token::Sign("["), _)));
        let fold = Fold::ALL.into_iter().find(|f| bracket && self.is_word(f.name())).unwrap_or(Fold::None);
        let (reds, body) = match fold {
            Fold::None => (vec![], self.expr(0)?),
            _ => {
                self.at += 1;
                let reds = self.ranges()?;
                self.expect("(")?;
                let body = self.expr(0)?;
                self.expect(")")?;
                (reds, body)
            }
        };
        if fold.results() == 2 {
            types.push(Type::new(DType::I64, outs.clone()));
        }
        let guards = if self.word("where") { self.guards()? } else { vec![] };
        let (operands, numbers) = self.operands(scope)?;
        let body = body.renumber(&|n| numbers[n]);
        Ok((Op::Nest(Nest { outs, reds, guards, fold, body }), operands))
    }

    /// `[k < T, ...]`: names the variables and gives their sizes.
    fn ranges(&mut self) -> Parsed<Vec<Size>> {
        self.expect("[")?;
        let mut names = Vec::new();
        let sizes = self.list("]", &mut |p| {
            names.push(p.name()?.to_string());
            p.expect("<")?;
            p.size()
        })?;
        self.vars.extend(names);
        Ok(sizes)
    }

    /// The node's operands, and for every operand in order of the text its number.
    fn operands(&mut self, scope: &Scope) -> Parsed<(Vec<Value>, Vec<usize>)> {
        let order = std::mem::take(&mut self.order);
        if !self.word("of") {
            let values = order.iter().map(|key| scope.value(key)).collect::<Parsed<_>>()?;
            return Ok((values, (0..order.len()).collect()));
        }
        let values = self.values(scope)?;
        let number = |key: &String| match key.strip_prefix('$') {
            Some(n) => n.parse().map_err(|_| format!("%{key} is no operand")),
            None => {
                let value = scope.value(key)?;
                values.iter().position(|v| *v == value).ok_or_else(|| format!("%{key} is not listed"))
            }
        };
        let numbers = order.iter().map(number).collect::<Parsed<_>>()?;
        Ok((values, numbers))
    }

    fn place(&mut self, scope: &Scope, types: &[Type]) -> Parsed<(Op, Vec<Value>)> {
        self.expect("(")?;
        let mut operands = Vec::new();
        let base = if self.word("fill") {
            Base::Fill(self.scalar()?)
        } else {
            operands.push(self.value(scope)?);
            Base::Operand
        };
        let mut runtime: Vec<String> = Vec::new();
        let mut pieces = Vec::new();
        while self.sign(";") {
            let piece = self.value(scope)?;
            operands.push(piece);
            self.keyword("at")?;
            self.expect("[")?;
            let start = self.list("]", &mut |p| match p.peek().clone() {
                Token::Value(key) => {
                    p.at += 1;
                    runtime.push(key);
                    Ok(Start::Runtime(runtime.len() - 1))
                }
                _ => p.size().map(Start::Size),
            })?;
            self.keyword("by")?;
            self.expect("[")?;
            let stride = self.list("]", &mut Parser::size)?;
            pieces.push(Piece { shape: scope.f.ty(piece).shape.clone(), start, stride });
        }
        self.expect(")")?;
        if self.word("with") {
            let behind = self.values(scope)?;
            for start in pieces.iter_mut().flat_map(|p| &mut p.start) {
                if let Start::Runtime(n) = start {
                    let value = scope.value(&runtime[*n])?;
                    *n = behind.iter().position(|v| *v == value).ok_or("a run-time start is not listed")?;
                }
            }
            operands.extend(behind);
        }
        Ok((Op::Place(Place { shape: types[0].shape.clone(), base, pieces }), operands))
    }

    fn scatter(&mut self, scope: &Scope, types: &[Type]) -> Parsed<(Op, Vec<Value>)> {
        self.expect("(")?;
        match self.next() {
            Token::Value(key) => self.order.push(key),
            _ => return self.fail("a value"),
        }
        self.expect(")")?;
        let folds = [ScatterFold::Replace, ScatterFold::Sum, ScatterFold::Prod, ScatterFold::Max, ScatterFold::Min];
        let Some(fold) = folds.into_iter().find(|f| self.is_word(f.name())) else { return self.fail("a fold") };
        self.at += 1;
        let points = self.ranges()?;
        self.expect("(")?;
        let value = self.expr(0)?;
        self.expect(")")?;
        self.keyword("at")?;
        self.expect("[")?;
        let index = self.list("]", &mut Parser::index)?;
        let guards = if self.word("where") { self.guards()? } else { vec![] };
        let (operands, numbers) = self.operands(scope)?;
        let number = |n: usize| numbers[n];
        let value = value.renumber(&number);
        let index = index.into_iter().map(|i| match i {
            Index::Affine(a) => Index::Affine(a),
            Index::Gather(e) => Index::Gather(Box::new(e.renumber(&number))),
        });
        Ok((Op::Scatter(Scatter { shape: types[0].shape.clone(), points, guards, index: index.collect(), value, fold }), operands))
    }

    fn scan(&mut self, scope: &Scope) -> Parsed<(Op, Vec<Value>)> {
        let reversed = self.word("reversed");
        let body = self.function_name()?;
        self.expect("[")?;
        let length = self.size()?;
        self.expect("]")?;
        self.expect("(")?;
        let mut operands = self.values(scope)?;
        let carries = operands.len();
        self.expect(";")?;
        let mut inputs = Vec::new();
        while matches!(self.peek(), Token::Value(_)) {
            operands.push(self.value(scope)?);
            self.keyword("along")?;
            inputs.push(self.natural()?);
            if !self.sign(",") {
                break;
            }
        }
        self.expect(";")?;
        operands.extend(self.values(scope)?);
        self.expect(")")?;
        self.keyword("to")?;
        self.expect("[")?;
        let outputs = self.list("]", &mut Parser::natural)?;
        Ok((Op::Scan(Scan { body, length, reversed, carries, inputs, outputs }), operands))
    }

    fn deeper<T>(&mut self, parse: &mut dyn FnMut(&mut Parser) -> Parsed<T>) -> Parsed<T> {
        self.depth += 1;
        let parsed = if self.depth > DEPTH { Err("nested too deeply".into()) } else { parse(self) };
        self.depth -= 1;
        parsed
    }
}

/// The name that a printed value carries.
fn node_name(key: &str) -> Option<Arc<str>> {
    if key.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let word = if key.ends_with('"') { key } else { key.rsplit_once('~').map_or(key, |(word, _)| word) };
    match lex(word).ok()?.into_iter().next()? {
        (Token::Word(w) | Token::Text(w), _) => Some(w.into()),
        _ => None,
    }
}

/// What an input without a line is printed under.
fn node_key(name: &str, node: usize, taken: &BTreeMap<String, NodeId>) -> String {
    let word = crate::ir::print::word(name);
    if taken.contains_key(&word) { format!("{word}~{node}") } else { word }
}
