//! Kernels of the primitives that move elements: place, scatter, sort, and time as the first axis of a scan's sequences.

use crate::ir::{Affine, DType, Fold, Index as IrIndex, NodeId, Piece, Scalar, ScalarOp, Scatter, Size, Start, Type, Value};
use crate::kernel::body::{Code, Source};
use crate::kernel::group::{Writer, identity, map_stage, store_at};
use crate::kernel::lower::{Kind, State};
use crate::kernel::{Index, Instr, Kernel, Stage, Store, Target};

/// A kernel and the buffers of its parameters.
type Bound = (Kernel, Vec<usize>);

fn ty(state: &State, buffer: usize) -> Type {
    state.out.buffers[buffer].ty.clone()
}

fn load(param: usize, index: Vec<Index>) -> Instr {
    Instr::Load { param, index, otherwise: None }
}

/// Writes `value` everywhere.
pub(super) fn fill(state: &mut State, to: usize, value: Scalar) -> Bound {
    let ty = ty(state, to);
    let mut w = Writer::new("fill", ty.shape.clone());
    let to = w.param(to, &ty, true);
    let mut code = Code::default();
    let value = code.push(Instr::Const(value));
    w.kernel.stages.push(map_stage(code, value, vec![store_at(to, identity(ty.shape.len()))]));
    (w.kernel, w.args)
}

/// Writes one piece of a place. A start that is known only at run time is clamped so that the piece fits.
pub(super) fn piece(state: &mut State, whole: Value, piece: &Piece, from: Value, starts: &[Value]) -> Bound {
    let mut w = Writer::new("piece", piece.shape.clone());
    let mut code = Code::default();
    let (rank, shape) = (piece.shape.len(), state.f.ty(whole).shape.clone());
    let value = match state.constant(from) {
        Some(c) => code.push(Instr::Const(c)),
        None => {
            let from = w.param(state.read(from), state.f.ty(from), false);
            code.push(load(from, identity(rank)))
        }
    };
    let mut index = Vec::new();
    for (axis, size) in shape.iter().enumerate() {
        let offset = Affine::var(axis).scale(&piece.stride[axis]);
        index.push(match &piece.start[axis] {
            Start::Size(start) => Index::Affine(offset.add(&Affine::constant(start.clone()))),
            Start::Runtime(n) => {
                let one = Size::constant(1);
                let reach = &(&piece.shape[axis] - &one) * &piece.stride[axis];
                let start = match state.constant(starts[*n]) {
                    Some(c) => code.push(Instr::Const(c)),
                    None => {
                        let param = w.param(state.read(starts[*n]), &Type::scalar(DType::I64), false);
                        code.push(load(param, vec![]))
                    }
                };
                let most = code.index(Affine::constant(&(size - &one) - &reach));
                let zero = code.push(Instr::Const(Scalar::i64(0)));
                let start = code.op(ScalarOp::Min, [start, most]);
                let start = code.op(ScalarOp::Max, [start, zero]);
                let offset = code.index(offset);
                Index::Value(code.op(ScalarOp::Add, [start, offset]))
            }
        });
    }
    let to = state.read(whole);
    let to = w.param(to, state.f.ty(whole), true);
    w.kernel.stages.push(map_stage(code, value, vec![store_at(to, index)]));
    (w.kernel, w.args)
}

/// Joins the updates with what is in `to`, one after the other in lexical order.
pub(super) fn scatter(state: &mut State, to: usize, scatter: &Scatter, operands: &[Value]) -> Bound {
    let mut w = Writer::new("scatter", vec![]);
    let mut code = Code::default();
    let mut source = |operand: usize| match state.constant(operands[operand]) {
        Some(c) => Source::Const(c),
        None => Source::Param(w.param(state.read(operands[operand]), state.f.ty(operands[operand]), false)),
    };
    let mut index = Vec::new();
    for (axis, i) in scatter.index.iter().enumerate() {
        index.push(match i {
            // Only what is in bounds by its range goes unchecked.
            IrIndex::Affine(a) if a.as_var().is_some_and(|v| scatter.points[v] == scatter.shape[axis]) => Index::Affine(a.clone()),
            IrIndex::Affine(a) => Index::Value(code.index(a.clone())),
            IrIndex::Gather(_) => code.position(i, &mut source),
        });
    }
    let value = code.expr(&scatter.value, &mut source);
    let ty = ty(state, to);
    let param = w.param(to, &ty, true);
    w.kernel.stages.push(Stage {
        inner: scatter.points.clone(),
        reds: vec![],
        guards: scatter.guards.clone(),
        skip: true,
        fold: Fold::None,
        body: code.finish(),
        values: vec![value],
        stores: vec![Store { result: 0, target: Target::Param { param, index, fold: Some(scatter.fold) } }],
    });
    (w.kernel, w.args)
}

/// Sorts by counting: an element's place is the number of elements of its row that come before it.
pub(super) fn sort(state: &mut State, id: NodeId, descending: bool) -> Bound {
    let from = state.f.node(id).operands[0];
    let ty = state.f.ty(from).clone();
    let (rank, last) = (ty.shape.len(), ty.shape.len() - 1);
    let mut w = Writer::new("sort", ty.shape.clone());
    let from = w.param(state.read(from), &ty, false);
    let place = w.local(DType::I64);
    let own = identity(rank);
    let mut other = own.clone();
    other[last] = Index::Affine(Affine::var(rank));

    let mut code = Code::default();
    let (x, y) = (code.push(load(from, own.clone())), code.push(load(from, other)));
    let (low, high) = if descending { (x, y) } else { (y, x) };
    let less = code.op(ScalarOp::Lt, [low, high]);
    let equal = code.op(ScalarOp::Eq, [x, y]);
    let (less, equal) = match ty.dtype.is_float() {
        false => (less, equal),
        true => {
            // NaN is larger than every number and equal to itself.
            let low_nan = code.op(ScalarOp::Ne, [low, low]);
            let high_nan = code.op(ScalarOp::Ne, [high, high]);
            let low_number = code.op(ScalarOp::Not, [low_nan]);
            let above = code.op(ScalarOp::And, [low_number, high_nan]);
            let both = code.op(ScalarOp::And, [low_nan, high_nan]);
            (code.op(ScalarOp::Or, [less, above]), code.op(ScalarOp::Or, [equal, both]))
        }
    };
    let (i, j) = (code.index(Affine::var(last)), code.index(Affine::var(rank)));
    let earlier = code.op(ScalarOp::Lt, [j, i]);
    let tie = code.op(ScalarOp::And, [equal, earlier]);
    let before = code.op(ScalarOp::Or, [less, tie]);
    let one = code.push(Instr::Cast(DType::I64, before));
    w.kernel.stages.push(Stage {
        inner: vec![],
        reds: vec![ty.shape[last].clone()],
        guards: vec![],
        skip: false,
        fold: Fold::Sum,
        body: code.finish(),
        values: vec![one],
        stores: vec![Store { result: 0, target: Target::Local(place) }],
    });
    for result in 0..2 {
        let value = Value { node: id, result };
        let buffer = state.define(value, Kind::Own);
        let to = w.param(buffer, state.f.ty(value), true);
        let mut code = Code::default();
        let at = code.push(Instr::Local(place));
        let value = if result == 0 { code.push(load(from, own.clone())) } else { code.index(Affine::var(last)) };
        let mut index = own.clone();
        index[last] = Index::Value(at);
        w.kernel.stages.push(map_stage(code, value, vec![store_at(to, index)]));
    }
    (w.kernel, w.args)
}

/// Writes `from` with its axis `a` as axis `b`.
pub(super) fn move_axis(state: &mut State, from: usize, to: usize, a: usize, b: usize) -> Bound {
    let (old, new) = (ty(state, from), ty(state, to));
    let mut w = Writer::new("move", new.shape.clone());
    let from = w.param(from, &old, false);
    let mut index = identity(new.shape.len());
    let moved = index.remove(b);
    index.insert(a, moved);
    let mut code = Code::default();
    let value = code.push(load(from, index));
    let to = w.param(to, &new, true);
    w.kernel.stages.push(map_stage(code, value, vec![store_at(to, identity(new.shape.len()))]));
    (w.kernel, w.args)
}
