//! Reads the text of [`crate::kernel::print`] back: printing and then reading gives the same kernel.
//!
//! In: any text. Out: a kernel (not yet verified), or what was expected at which line.

use crate::ir::lex::{Token, lex};
use crate::ir::parse::{Parsed, Parser};
use crate::ir::{DType, Dim, Fold, Guard, Scalar, ScalarOp, ScatterFold, Size};
use crate::kernel::print::{infix, vars};
use crate::kernel::{Index, Instr, Kernel, Param, Stage, Store, Target};

const SCATTERS: [ScatterFold; 5] = [ScatterFold::Replace, ScatterFold::Sum, ScatterFold::Prod, ScatterFold::Max, ScatterFold::Min];
/// How deep selects may nest.
const DEPTH: usize = 200;

/// The kernel that `text` says.
pub fn kernel(text: &str) -> Result<Kernel, String> {
    let mut parser = Parser::new(lex(text)?);
    let kernel = self::whole(&mut parser).and_then(|k| if *parser.peek() == Token::End { Ok(k) } else { parser.fail("the end") });
    kernel.map_err(|e| parser.with_line(e))
}

fn whole(p: &mut Parser) -> Parsed<Kernel> {
    p.keyword("kernel")?;
    let name = p.name()?;
    p.expect("(")?;
    let names = p.list(")", &mut Parser::name)?;
    p.module.dims = names.iter().map(|n| Dim { name: n.clone(), min: 0, max: None }).collect();
    let mut kernel = Kernel { name, sizes: names.len(), params: vec![], outer: vec![], locals: vec![], stages: vec![] };
    p.expect("{")?;
    while numbered(p, "p", kernel.params.len()) {
        p.expect(":")?;
        let written = p.word("out");
        let ty = p.ty()?;
        kernel.params.push(Param { dtype: ty.dtype, shape: ty.shape, written });
    }
    while p.word("local") {
        reference(p, "l")?;
        p.expect(":")?;
        kernel.locals.push(p.ty()?.dtype);
    }
    p.keyword("outer")?;
    kernel.outer = ranges(p)?;
    while p.word("stage") {
        let stage = stage(p, kernel.outer.len())?;
        kernel.stages.push(stage);
    }
    p.expect("}")?;
    Ok(kernel)
}

/// Whether the next token is `p3` for prefix `p` and number 3; takes it.
fn numbered(p: &mut Parser, prefix: &str, n: usize) -> bool {
    p.word(&format!("{prefix}{n}"))
}

/// The number of `p3`.
fn reference(p: &mut Parser, prefix: &str) -> Parsed<usize> {
    if let Token::Word(w) = p.peek()
        && let Some(n) = w.strip_prefix(prefix).and_then(|n| n.parse().ok())
    {
        p.at += 1;
        return Ok(n);
    }
    p.fail(prefix)
}

fn value(p: &mut Parser) -> Parsed<usize> {
    if let Token::Value(v) = p.peek()
        && let Ok(n) = v.parse()
    {
        p.at += 1;
        return Ok(n);
    }
    p.fail("a value")
}

fn values(p: &mut Parser) -> Parsed<Vec<usize>> {
    let mut list = vec![value(p)?];
    while p.sign(",") {
        list.push(value(p)?);
    }
    Ok(list)
}

fn ranges(p: &mut Parser) -> Parsed<Vec<Size>> {
    p.expect("[")?;
    p.list("]", &mut |p| {
        p.name()?;
        p.expect("<")?;
        p.size()
    })
}

fn guards(p: &mut Parser) -> Parsed<Vec<Guard>> {
    if p.word("true") { Ok(vec![]) } else { p.guards() }
}

fn stage(p: &mut Parser, outer: usize) -> Parsed<Stage> {
    let word = p.name()?;
    let fold = Fold::ALL.into_iter().find(|f| f.name() == &*word).ok_or_else(|| format!("{word} is no fold"))?;
    let reds = if *p.peek() == Token::Sign("[") { ranges(p)? } else { vec![] };
    let inner = if p.word("inner") { ranges(p)? } else { vec![] };
    p.vars = vars(outer + inner.len() + reds.len());
    let guards = if p.word("where") { guards(p)? } else { vec![] };
    let skip = p.word("skip");
    p.expect("{")?;
    let body = block(p, 0, 0)?;
    p.keyword("fold")?;
    let values = values(p)?;
    let mut stores = Vec::new();
    while !p.sign("}") {
        stores.push(store(p)?);
    }
    Ok(Stage { inner, reds, guards, skip, fold, body, values, stores })
}

fn store(p: &mut Parser) -> Parsed<Store> {
    let target = match reference(p, "l") {
        Ok(local) => Target::Local(local),
        Err(_) => {
            let (param, index) = position(p)?;
            let fold = SCATTERS.into_iter().find(|f| p.word(f.name()));
            Target::Param { param, index, fold }
        }
    };
    p.expect("=")?;
    p.keyword("result")?;
    Ok(Store { result: p.natural()?, target })
}

fn position(p: &mut Parser) -> Parsed<(usize, Vec<Index>)> {
    let param = reference(p, "p")?;
    p.expect("[")?;
    let index = p.list("]", &mut |p| match p.peek() {
        Token::Value(_) => value(p).map(Index::Value),
        _ => p.affine().map(Index::Affine),
    })?;
    Ok((param, index))
}

/// Instructions from number `first` on.
fn block(p: &mut Parser, first: usize, depth: usize) -> Parsed<Vec<Instr>> {
    if depth > DEPTH {
        return Err("nested too deeply".into());
    }
    let mut body = Vec::new();
    while matches!(p.peek(), Token::Value(_)) {
        if value(p)? != first + body.len() {
            return Err(format!("expected %{}", first + body.len()));
        }
        p.expect("=")?;
        let instr = instr(p, first + body.len(), depth)?;
        body.push(instr);
    }
    Ok(body)
}

fn instr(p: &mut Parser, number: usize, depth: usize) -> Parsed<Instr> {
    if matches!(p.peek(), Token::Value(_)) {
        let a = value(p)?;
        let op = ScalarOp::ALL.into_iter().filter(|op| infix(*op)).find(|op| p.sign(op.name()));
        let Some(op) = op else { return p.fail("an operator") };
        return Ok(Instr::Op(op, vec![a, value(p)?]));
    }
    let Token::Word(word) = p.peek().clone() else { return constant(p) };
    if let Some(op) = ScalarOp::ALL.into_iter().find(|op| op.name() == word && *op != ScalarOp::Select) {
        p.at += 1;
        return Ok(Instr::Op(op, values(p)?));
    }
    if let Some(to) = [DType::F32, DType::F64, DType::I64, DType::Bool].into_iter().find(|t| t.to_string() == word) {
        p.at += 1;
        return Ok(Instr::Cast(to, value(p)?));
    }
    let start = p.at;
    p.at += 1;
    match &*word {
        "load" => {
            let (param, index) = position(p)?;
            let otherwise = if p.word("else") { Some(p.scalar()?) } else { None };
            Ok(Instr::Load { param, index, otherwise })
        }
        "local" => reference(p, "l").map(Instr::Local),
        "index" => p.affine().map(Instr::Index),
        "holds" => guards(p).map(Instr::Holds),
        "select" => {
            let condition = value(p)?;
            let then = Box::new(side(p, number, depth + 1)?);
            p.keyword("else")?;
            let otherwise = Box::new(side(p, number, depth + 1)?);
            Ok(Instr::Select { condition, then, otherwise })
        }
        _ => {
            p.at = start;
            constant(p)
        }
    }
}

fn constant(p: &mut Parser) -> Parsed<Instr> {
    p.scalar().map(|c: Scalar| Instr::Const(c))
}

fn side(p: &mut Parser, first: usize, depth: usize) -> Parsed<(Vec<Instr>, usize)> {
    p.expect("{")?;
    let body = block(p, first, depth)?;
    p.keyword("yield")?;
    let value = value(p)?;
    p.expect("}")?;
    Ok((body, value))
}
