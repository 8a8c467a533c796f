//! Pieces of a place that are computed where they belong, instead of beside it and copied.

use crate::ir::{Affine, Base, Function, Nest, NodeId, Op, Place, Size, Start, Value};
use crate::kernel::fuse::live;
use crate::kernel::lower::product;
use std::collections::BTreeMap;

/// Where a piece is computed.
#[derive(Clone, Debug)]
pub struct Spot {
    /// The place.
    pub place: NodeId,
    /// The element that each of the piece's elements is, over the piece's indices.
    pub index: Vec<Affine>,
}

/// How often living nodes and the caller read each value.
pub fn uses(f: &Function) -> BTreeMap<Value, usize> {
    let live = live(f);
    let mut uses: BTreeMap<Value, usize> = BTreeMap::new();
    let operands = f.iter().filter(|(id, _)| live[id.0 as usize]).flat_map(|(_, n)| &n.operands);
    operands.chain(f.results.iter().map(|(_, v)| v)).for_each(|v| *uses.entry(*v).or_default() += 1);
    uses
}

/// The values that are nothing but a piece, at a start that is known, of a place over a fill.
pub fn spots(f: &Function, uses: &BTreeMap<Value, usize>) -> BTreeMap<Value, Spot> {
    let live = live(f);
    let mut spots = BTreeMap::new();
    for (id, node) in f.iter().filter(|(id, _)| live[id.0 as usize]) {
        let Op::Place(place @ Place { base: Base::Fill(_), .. }) = &node.op else { continue };
        for (piece, value) in place.pieces.iter().zip(&node.operands) {
            let single = matches!(&f.node(value.node).op, Op::Nest(Nest { fold, .. }) if fold.results() == 1);
            let at = |axis: usize| match &piece.start[axis] {
                Start::Size(start) => Some(Affine::var(axis).scale(&piece.stride[axis]).add(&Affine::constant(start.clone()))),
                Start::Runtime(_) => None,
            };
            let index: Option<Vec<Affine>> = (0..piece.shape.len()).map(at).collect();
            if let (true, Some(1), Some(index)) = (single, uses.get(value), index) {
                spots.insert(*value, Spot { place: id, index });
            }
        }
    }
    spots
}

/// Whether the pieces leave nothing of the fill: they never overlap, so that their sizes say it.
pub fn covers(place: &Place) -> bool {
    let known = |start: &Start| matches!(start, Start::Size(_));
    let sum = place.pieces.iter().try_fold(Size::default(), |sum, piece| sum.checked_add(&product(&piece.shape)));
    place.pieces.iter().all(|p| p.start.iter().all(known)) && sum.is_some_and(|sum| sum == product(&place.shape))
}
