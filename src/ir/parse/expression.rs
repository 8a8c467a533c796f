//! Reads sizes, index expressions, guards, literals and scalar expressions.
//!
//! In: a parser at the expression, with its index variables in scope. Out: the expression, its loads numbered in the order of the text.

use super::{Parsed, Parser};
use crate::ir::lex::Token;
use crate::ir::*;

const TOO_LARGE: &str = "a coefficient is too large";

/// Whether what the readers of an index add to it, or take from it, cannot overflow.
fn moderate(index: &Affine) -> bool {
    let sizes = index.terms.iter().map(|(_, c)| c).chain([&index.constant]);
    sizes.flat_map(|s| s.terms()).all(|(_, n)| n.unsigned_abs() <= i64::MAX as u64 / 4)
}

impl Parser {
    pub(crate) fn size(&mut self) -> Parsed<Size> {
        let vars = std::mem::take(&mut self.vars);
        let affine = self.affine();
        self.vars = vars;
        Ok(affine?.constant)
    }

    pub(crate) fn affine(&mut self) -> Parsed<Affine> {
        self.deeper(&mut |p| {
            let mut sum = Affine::default();
            let mut minus = p.sign("-");
            loop {
                let sign = Size::constant(if minus { -1 } else { 1 });
                let term = p.affine_term()?.checked_scale(&sign);
                sum = term.and_then(|t| sum.checked_add(&t)).filter(moderate).ok_or(TOO_LARGE)?;
                minus = match () {
                    () if p.sign("+") => false,
                    () if p.sign("-") => true,
                    () => return Ok(sum),
                };
            }
        })
    }

    fn affine_term(&mut self) -> Parsed<Affine> {
        let mut product = self.affine_factor()?;
        while self.sign("*") {
            let factor = self.affine_factor()?;
            let scaled = match (product.as_size(), factor.as_size()) {
                (Some(by), _) => factor.checked_scale(by),
                (None, Some(by)) => product.checked_scale(by),
                (None, None) => return Err("a product of two index variables".into()),
            };
            product = scaled.ok_or(TOO_LARGE)?;
        }
        Ok(product)
    }

    fn affine_factor(&mut self) -> Parsed<Affine> {
        match self.next() {
            Token::Number(n) => n.parse::<i64>().map(Affine::constant).map_err(|_| format!("{n} is no index")),
            Token::Sign("(") => {
                let inner = self.affine()?;
                self.expect(")")?;
                Ok(inner)
            }
            Token::Word(w) if (w == "div" || w == "mod") && self.sign("(") => {
                let a = self.affine()?;
                self.expect(",")?;
                let by = self.affine()?;
                self.expect(")")?;
                match by.as_size() {
                    Some(by) if by.as_const() != Some(0) => Ok(if w == "div" { a.div(by) } else { a.modulo(by) }),
                    _ => Err("an index is divided by a size that is not 0".into()),
                }
            }
            Token::Word(w) => match self.vars.iter().position(|v| *v == w) {
                Some(v) => Ok(Affine::var(v)),
                None if self.module.dims.iter().any(|d| *d.name == *w) => Ok(Affine::constant(Size::dim(&w))),
                None => Err(format!("{w} is neither an index nor a dim")),
            },
            _ => {
                self.at -= 1;
                self.fail("an index")
            }
        }
    }

    pub(crate) fn guards(&mut self) -> Parsed<Vec<Guard>> {
        let mut guards = Vec::new();
        loop {
            let a = self.affine()?;
            let relation = self.next();
            let b = self.affine()?;
            guards.push(match relation {
                Token::Sign("==") => Guard::eq(&a, &b),
                Token::Sign("!=") => Guard { expr: a.sub(&b), relation: Relation::NonZero },
                Token::Sign(">=") => Guard::le(&b, &a),
                Token::Sign(">") => Guard::lt(&b, &a),
                Token::Sign("<=") => Guard::le(&a, &b),
                Token::Sign("<") => Guard::lt(&a, &b),
                _ => return Err("expected a comparison".into()),
            });
            if !self.word("and") {
                return Ok(guards);
            }
        }
    }

    pub(super) fn index(&mut self) -> Parsed<Index> {
        if self.sign("{") {
            let e = self.expr(0)?;
            self.expect("}")?;
            return Ok(Index::Gather(Box::new(e)));
        }
        match self.peek() {
            Token::Value(_) => Ok(Index::Gather(Box::new(self.expr(9)?))),
            _ => self.affine().map(Index::Affine),
        }
    }

    /// A literal with its sign.
    pub(crate) fn scalar(&mut self) -> Parsed<Scalar> {
        let minus = self.sign("-");
        let text = match self.next() {
            Token::Number(n) => n,
            Token::Word(w) if w == "bits" => {
                self.expect("(")?;
                let Token::Number(bits) = self.next() else { return self.fail("bits") };
                self.expect(")")?;
                let dtype = if self.word("f32") { DType::F32 } else { self.keyword("f64").map(|()| DType::F64)? };
                return bits.parse().map(|b| Scalar::from_bits(dtype, b)).map_err(|_| "expected bits".into());
            }
            Token::Word(w) => w,
            _ => String::new(),
        };
        literal(minus, &text).ok_or_else(|| format!("{text} is no literal"))
    }

    pub(super) fn expr(&mut self, least: u8) -> Parsed<Expr> {
        self.deeper(&mut |p| {
            let mut left = p.unary()?;
            loop {
                use ScalarOp::*;
                let op = match p.peek() {
                    Token::Sign(s) => [Add, Sub, Mul, Div, Pow, Eq, Ne, Lt, Le].into_iter().find(|op| op.name() == *s),
                    Token::Word(w) => [And, Or].into_iter().find(|op| op.name() == w),
                    Token::Value(_) | Token::Number(_) | Token::Text(_) | Token::End => None,
                };
                let Some(op) = op.filter(|op| crate::ir::print::precedence(*op) >= least) else { return Ok(left) };
                p.at += 1;
                let right = p.expr(crate::ir::print::precedence(op) + 1)?;
                left = Expr::Op(op, vec![left, right]);
            }
        })
    }

    fn unary(&mut self) -> Parsed<Expr> {
        if matches!(self.peek(), Token::Sign("-")) {
            let number = match self.tokens.get(self.at + 1) {
                Some((Token::Number(_), _)) => true,
                Some((Token::Word(w), _)) => literal(true, w).is_some(),
                _ => false,
            };
            if number {
                return self.scalar().map(Expr::Const);
            }
            self.at += 1;
            let arg = self.expr(7)?;
            return Ok(Expr::Op(ScalarOp::Neg, vec![arg]));
        }
        match self.next() {
            Token::Sign("(") => {
                let inner = self.expr(0)?;
                self.expect(")")?;
                Ok(inner)
            }
            Token::Sign("[") => {
                let guards = if self.sign("]") { return Ok(Expr::Holds(vec![])) } else { self.guards()? };
                self.expect("]")?;
                Ok(Expr::Holds(guards))
            }
            Token::Value(key) => self.load(key),
            Token::Number(_) => {
                self.at -= 1;
                self.scalar().map(Expr::Const)
            }
            Token::Word(w) => {
                if let Some(v) = self.vars.iter().position(|v| *v == w) {
                    return Ok(Expr::Index(Affine::var(v)));
                }
                if w == "bits" || literal(false, &w).is_some() {
                    self.at -= 1;
                    return self.scalar().map(Expr::Const);
                }
                self.expect("(")?;
                if w == "index" {
                    let a = self.affine()?;
                    self.expect(")")?;
                    return Ok(Expr::Index(a));
                }
                let mut args = self.list(")", &mut |p| p.expr(0))?;
                let casts = [DType::F32, DType::F64, DType::I64, DType::Bool];
                if let (Some(to), 1) = (casts.into_iter().find(|t| t.to_string() == w), args.len()) {
                    return Ok(Expr::Cast(to, Box::new(args.remove(0))));
                }
                match ScalarOp::ALL.into_iter().find(|op| op.name() == w) {
                    Some(op) if op.arity() == args.len() => Ok(Expr::Op(op, args)),
                    Some(op) => Err(format!("{w} takes {} operands", op.arity())),
                    None => Err(format!("{w} is no function")),
                }
            }
            _ => {
                self.at -= 1;
                self.fail("an expression")
            }
        }
    }

    fn load(&mut self, key: String) -> Parsed<Expr> {
        let operand = self.order.iter().position(|k| *k == key).unwrap_or_else(|| {
            self.order.push(key);
            self.order.len() - 1
        });
        let (mut index, mut otherwise) = (Vec::new(), None);
        if self.sign("[") {
            loop {
                if self.word("else") {
                    otherwise = Some(self.scalar()?);
                    self.expect("]")?;
                    break;
                }
                index.push(self.index()?);
                if self.sign("]") {
                    break;
                }
                self.expect(",")?;
            }
        }
        Ok(Expr::Load { operand, index, otherwise })
    }
}

/// `0.5`, `3`, `inf`, `nanf64`, `true`
fn literal(minus: bool, text: &str) -> Option<Scalar> {
    match text {
        "true" => return (!minus).then_some(Scalar::bool(true)),
        "false" => return (!minus).then_some(Scalar::bool(false)),
        _ => {}
    }
    let sign = if minus { "-" } else { "" };
    if !text.starts_with(|c: char| c.is_ascii_digit()) && !["inf", "inff64", "nan", "nanf64"].contains(&text) {
        return None;
    }
    if let Some(double) = text.strip_suffix("f64") {
        return format!("{sign}{double}").parse().ok().map(Scalar::f64);
    }
    match text.contains(['.', 'e', 'i', 'n']) {
        true => format!("{sign}{text}").parse().ok().map(Scalar::f32),
        false => format!("{sign}{text}").parse().ok().map(Scalar::i64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::lex::lex;

    #[test]
    fn enormous_coefficients_are_refused() {
        let read = |text: &str| {
            let mut parser = Parser::new(lex(text).unwrap());
            parser.vars = vec!["i".into()];
            parser.guards()
        };
        assert!(read("2305843009213693951*i >= 1").is_ok());
        for text in [
            "9223372036854775807 > -9223372036854775807",
            "9223372036854775807*i*i > 0",
            "9223372036854775807*9223372036854775807 > i",
            "i*3000000000*3000000000 - i*3000000000*3000000000*2 == 0",
            "4611686018427387904 + 4611686018427387904 == i",
            "99999999999999999999 == i",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
