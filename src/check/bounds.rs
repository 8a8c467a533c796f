//! Arithmetic on statics, checked; and what is known of sizes from the bounds of their dims.

use crate::check::Checker;
use crate::check::value::*;
use crate::diagnostic::Diagnostic;
use crate::ir::{ScalarOp, Size};
use crate::span::Span;
use nnc_runtime::size::Atom;

/// The least and the greatest value, where there is one.
pub type Interval = (Option<i128>, Option<i128>);

impl Checker<'_> {
    /// Between which values a size lies for all dims within their bounds.
    pub(super) fn interval(&self, size: &Size) -> Interval {
        let (mut low, mut high) = (Some(0i128), Some(0i128));
        for (atoms, n) in size.terms() {
            let mut term: Interval = (Some(1), Some(1));
            for atom in atoms {
                term = times(term, self.atom(atom));
            }
            term = times(term, (Some(i128::from(*n)), Some(i128::from(*n))));
            low = low.zip(term.0).and_then(|(a, b)| a.checked_add(b));
            high = high.zip(term.1).and_then(|(a, b)| a.checked_add(b));
        }
        (low, high)
    }

    fn atom(&self, atom: &Atom) -> Interval {
        match atom {
            Atom::Dim(name) => match self.program.dims.iter().find(|d| d.name == *name) {
                Some(d) => (Some(d.min.into()), d.max.map(i128::from)),
                None => (Some(0), None),
            },
            Atom::Div(a, b) => match (self.interval(a), b.as_const()) {
                ((low, high), Some(n)) if n > 0 => (low.map(|x| x.div_euclid(n.into())), high.map(|x| x.div_euclid(n.into()))),
                ((Some(low), high), _) if low >= 0 && self.interval(b).0.is_some_and(|x| x >= 1) => (Some(0), high),
                _ => (None, None),
            },
            Atom::Mod(_, b) => match self.interval(b) {
                (Some(low), high) if low >= 1 => (Some(0), high.map(|x| x - 1)),
                _ => (None, None),
            },
        }
    }

    /// Whether `a <= b` for all dims; nothing if that depends on them.
    pub(super) fn at_most(&self, a: &Size, b: &Size) -> Option<bool> {
        let (low, high) = self.interval(&b.checked_add(&a.neg())?);
        match (low, high) {
            (Some(x), _) if x >= 0 => Some(true),
            (_, Some(x)) if x < 0 => Some(false),
            _ => None,
        }
    }

    /// Folds an operation on statics; `None` where dims would have to be known.
    pub(super) fn fold(&mut self, op: ScalarOp, args: &[Static], span: Span) -> Option<Value> {
        use ScalarOp::*;
        if let (Not, [Static::Bool(a)]) = (op, args) {
            return Some(Value::Static(Static::Bool(!a)));
        }
        if let (And | Or | Eq | Ne, [Static::Bool(a), Static::Bool(b)]) = (op, args) {
            let (a, b) = (*a, *b);
            let value = match op {
                And => a && b,
                Or => a || b,
                Eq => a == b,
                _ => a != b,
            };
            return Some(Value::Static(Static::Bool(value)));
        }
        if op == Select {
            return match args {
                [Static::Bool(c), a, b] => Some(Value::Static(if *c { a.clone() } else { b.clone() })),
                _ => Some(self.wrong("E0407", "a condition is needed", span, "here")),
            };
        }
        if args.iter().any(|a| matches!(a, Static::Bool(_) | Static::Text(_))) {
            return Some(self.wrong("E0407", format!("`{}` works on numbers", op.name()), span, "here"));
        }
        if let [Static::Int(a), Static::Int(b)] = args
            && let Some(value) = self.fold_sizes(op, a, b, span)
        {
            return value;
        }
        if let ([Static::Int(a)], Neg) = (args, op) {
            return Some(Value::Static(Static::Int(a.neg())));
        }
        let numbers: Option<Vec<f64>> = args.iter().map(Static::number).collect();
        let numbers = numbers?;
        let whole = args.iter().all(|a| matches!(a, Static::Int(_)));
        let value = match (op, numbers.as_slice()) {
            (Neg, [a]) => -a,
            (Abs, [a]) => a.abs(),
            (Sign, [a]) => {
                if *a == 0.0 || a.is_nan() {
                    *a
                } else {
                    a.signum()
                }
            }
            (Sqrt, [a]) => a.sqrt(),
            (Exp, [a]) => a.exp(),
            (Expm1, [a]) => a.exp_m1(),
            (Log, [a]) => a.ln(),
            (Log1p, [a]) => a.ln_1p(),
            (Sin, [a]) => a.sin(),
            (Cos, [a]) => a.cos(),
            (Atan, [a]) => a.atan(),
            (Tanh, [a]) => a.tanh(),
            (Sigmoid, [a]) => 1.0 / (1.0 + (-a).exp()),
            (Floor, [a]) => a.floor(),
            (Ceil, [a]) => a.ceil(),
            (Round, [a]) => a.round_ties_even(),
            (Add, [a, b]) => a + b,
            (Sub, [a, b]) => a - b,
            (Mul, [a, b]) => a * b,
            (Div, [_, b]) if *b == 0.0 => {
                return Some(self.wrong("E0304", "division by zero", span, "the divisor is 0"));
            }
            (Div, [a, b]) => a / b,
            (Pow, [a, b]) => a.powf(*b),
            (Max, [a, b]) => a.max(*b),
            (Min, [a, b]) => a.min(*b),
            (FloorDiv | Mod, [_, b]) if *b == 0.0 => {
                return Some(self.wrong("E0304", "division by zero", span, "the divisor is 0"));
            }
            (FloorDiv, [a, b]) => (a / b).floor(),
            (Mod, [a, b]) => a - b * (a / b).floor(),
            (Eq, [a, b]) => return Some(Value::Static(Static::Bool(a == b))),
            (Ne, [a, b]) => return Some(Value::Static(Static::Bool(a != b))),
            (Lt, [a, b]) => return Some(Value::Static(Static::Bool(a < b))),
            (Le, [a, b]) => return Some(Value::Static(Static::Bool(a <= b))),
            _ => return None,
        };
        if whole && matches!(op, Abs | Sign | Floor | Ceil | Round) {
            return Some(Value::int(value as i64));
        }
        Some(Value::Static(Static::Float(value)))
    }

    /// Operations on sizes that stay sizes or truths. Outer `None`: not among these.
    fn fold_sizes(&mut self, op: ScalarOp, a: &Size, b: &Size, span: Span) -> Option<Option<Value>> {
        use ScalarOp::*;
        let constants = a.as_const().zip(b.as_const());
        let size = match op {
            Add => a.checked_add(b),
            Sub => a.checked_add(&b.neg()),
            Mul => a.checked_mul(b),
            FloorDiv | Mod => {
                let quotient = if op == FloorDiv { a.div(b) } else { a.modulo(b) };
                if quotient.is_none() {
                    let d = Diagnostic::error("E0304", "division by zero", span, format!("`{}` by 0", op.name()));
                    self.report(d);
                    return Some(Some(Value::Poison));
                }
                quotient
            }
            Pow => match constants {
                Some((x, n)) if n >= 0 => u32::try_from(n).ok().and_then(|n| x.checked_pow(n)).map(Size::constant),
                _ => return None,
            },
            Max | Min => {
                let smaller = self.at_most(a, b);
                match smaller {
                    Some(ordered) => Some(if ordered == (op == Min) { a.clone() } else { b.clone() }),
                    None => return Some(None),
                }
            }
            Eq | Ne => {
                let difference = a.checked_add(&b.neg())?;
                let equal = match self.interval(&difference) {
                    _ if difference.as_const() == Some(0) => true,
                    (Some(low), _) if low > 0 => false,
                    (_, Some(high)) if high < 0 => false,
                    _ => return Some(None),
                };
                return Some(Some(Value::Static(Static::Bool(equal == (op == Eq)))));
            }
            Lt => return Some(self.at_most(b, a).map(|x| Value::Static(Static::Bool(!x)))),
            Le => return Some(self.at_most(a, b).map(|x| Value::Static(Static::Bool(x)))),
            _ => return None,
        };
        Some(Some(match size {
            Some(s) => Value::Static(Static::Int(s)),
            None => self.wrong("E0701", "a number does not fit in 63 bits", span, "overflows"),
        }))
    }
}

fn times(a: Interval, b: Interval) -> Interval {
    // Corners of the box; an open side makes the product open unless the other factor cannot change sign.
    match (a, b) {
        ((Some(al), Some(ah)), (Some(bl), Some(bh))) => {
            let corners = [al.checked_mul(bl), al.checked_mul(bh), ah.checked_mul(bl), ah.checked_mul(bh)];
            match corners.into_iter().collect::<Option<Vec<_>>>() {
                Some(c) => (c.iter().min().copied(), c.iter().max().copied()),
                None => (None, None),
            }
        }
        ((Some(al), ah), (Some(bl), bh)) if al >= 0 && bl >= 0 => (al.checked_mul(bl), ah.zip(bh).and_then(|(x, y)| x.checked_mul(y))),
        ((Some(al), None), (_, Some(bh))) if al >= 0 && bh <= 0 => (None, al.checked_mul(bh)),
        ((_, Some(ah)), (Some(bl), None)) if bl >= 0 && ah <= 0 => (None, bl.checked_mul(ah)),
        _ => (None, None),
    }
}
