//! Scalar expressions to three-address code, equal subexpressions shared.
//!
//! In: an expression of a nest and what each of its operands is inside the kernel. Out: instructions numbered as [`Instr`] says. An
//! instruction inside a block of a select is shared with later ones of that block only, so that the other side never computes it.

use crate::ir::{Affine, Expr, Scalar, ScalarOp};
use crate::kernel::{Index, Instr};

/// What a nest's operand is inside a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The same value everywhere.
    Const(Scalar),
    /// A buffer.
    Param(usize),
    /// A scalar of the same outer point.
    Local(usize),
}

/// The instructions of a stage while they are written.
#[derive(Debug, Default)]
pub struct Code {
    visible: Vec<Instr>,
}

impl Code {
    /// The instruction's number: of an equal one that is visible, or its own.
    pub fn push(&mut self, instr: Instr) -> usize {
        self.visible.iter().position(|known| *known == instr).unwrap_or_else(|| {
            self.visible.push(instr);
            self.visible.len() - 1
        })
    }

    /// `op(args)`.
    pub fn op(&mut self, op: ScalarOp, args: impl Into<Vec<usize>>) -> usize {
        self.push(Instr::Op(op, args.into()))
    }

    /// An i64 index expression.
    pub fn index(&mut self, affine: Affine) -> usize {
        self.push(Instr::Index(affine))
    }

    /// The expression's value.
    pub fn expr(&mut self, expr: &Expr, source: &mut dyn FnMut(usize) -> Source) -> usize {
        match expr {
            Expr::Const(c) => self.push(Instr::Const(*c)),
            Expr::Load { operand, index, otherwise } => match source(*operand) {
                Source::Const(c) => self.push(Instr::Const(c)),
                Source::Local(local) => self.push(Instr::Local(local)),
                Source::Param(param) => {
                    let index = index.iter().map(|i| self.position(i, source)).collect();
                    self.push(Instr::Load { param, index, otherwise: *otherwise })
                }
            },
            Expr::Index(affine) => self.index(affine.clone()),
            Expr::Holds(guards) => self.push(Instr::Holds(guards.clone())),
            Expr::Op(ScalarOp::Select, args) => {
                let condition = self.expr(&args[0], source);
                let then = Box::new(self.block(&args[1], source));
                let otherwise = Box::new(self.block(&args[2], source));
                self.push(Instr::Select { condition, then, otherwise })
            }
            Expr::Op(op, args) => {
                let args: Vec<usize> = args.iter().map(|a| self.expr(a, source)).collect();
                self.op(*op, args)
            }
            Expr::Cast(to, from) => {
                let from = self.expr(from, source);
                self.push(Instr::Cast(*to, from))
            }
        }
    }

    /// An index of a load or store.
    pub fn position(&mut self, index: &crate::ir::Index, source: &mut dyn FnMut(usize) -> Source) -> Index {
        match index {
            crate::ir::Index::Affine(affine) => Index::Affine(affine.clone()),
            crate::ir::Index::Gather(expr) => Index::Value(self.expr(expr, source)),
        }
    }

    fn block(&mut self, expr: &Expr, source: &mut dyn FnMut(usize) -> Source) -> (Vec<Instr>, usize) {
        let start = self.visible.len();
        let value = self.expr(expr, source);
        (self.visible.split_off(start), value)
    }

    /// The finished body.
    pub fn finish(self) -> Vec<Instr> {
        self.visible
    }
}
