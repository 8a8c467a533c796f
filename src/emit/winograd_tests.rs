//! The law of convolutions in squares: random ones, of every size at which lines, vectors, panels, tiles and blocks begin and end, give the
//! interpreter's bits.

use super::tests::{law, program};
use crate::ir::generate::{self, Random};
use crate::ir::*;
use crate::kernel::contract::recognise;
use crate::passes::winograd::squares;
use crate::span::Span;
use nnc_runtime::manifest::Source;

fn c(n: i64) -> Size {
    Size::constant(n)
}

/// A convolution `[b, o, y, x]` of an image `[b, c, y, x]` with weights `[o, c, r, s]`, or the gradient of the image; then half of the time a map of its
/// own box.
fn convolution(random: &mut Random, f: &mut Function) -> Value {
    let dtype = if random.once_in(4) { DType::F64 } else { DType::F32 };
    let mut pick = |from: &[i64]| from[random.below(from.len())];
    let (back, padding, map) = (pick(&[0, 1]) == 1, pick(&[0, 1, 1]), pick(&[0, 1]) == 1);
    let [height, width] = [0, 1].map(|_| pick(&[2, 3, 4, 5, 7, 8, 9, 14, 16, 17, 28, 33]));
    let (from, to) = (pick(&[1, 3, 6, 17, 40, 255, 257, 300]), pick(&[1, 2, 5, 13, 25]));
    let (from, to) = if height * width > 100 { (from.min(7), to.min(5)) } else { (from, to) };
    let images = if pick(&[0, 1]) == 1 { Size::dim("B") } else { c(pick(&[1, 2, 3])) };
    let var = Affine::var;
    let at = |v: usize, tap: usize| match back {
        false => var(v).add(&var(tap)).sub(&Affine::constant(padding)),
        true => var(v).sub(&var(tap)).add(&Affine::constant(2 - padding)),
    };
    let edge = 2 - 2 * padding;
    let image = [images.clone(), c(from), c(height + edge), c(width + edge)];
    let (weight, weights) =
        if back { ([c(from), c(to), c(3), c(3)], load_at(1, [4, 1, 5, 6])) } else { ([c(to), c(from), c(3), c(3)], load_at(1, [1, 4, 5, 6])) };
    let pixel = Expr::Load {
        operand: 0,
        index: [var(0), var(4), at(2, 5), at(3, 6)].map(Index::Affine).to_vec(),
        otherwise: Some(Scalar::float(dtype, 0.0)),
    };
    let outer = [images, c(to), c(height), c(width)];
    let mut input = |shape: &[Size]| f.input(&format!("x{}", f.inputs.len()), Type::new(dtype, shape));
    let (inputs, extra) = ([input(&image), input(&weight)], [input(&outer), input(&outer[1..2])]);
    let nest = Nest::fold(outer.to_vec(), vec![c(from), c(3), c(3)], Fold::Dot, Expr::op(ScalarOp::Mul, [pixel, weights]));
    let dot = f.nest(nest, inputs, Span::default());
    if !map {
        return dot;
    }
    let beside = Expr::op(ScalarOp::Sub, [load_at(1, 0..4), Expr::op(ScalarOp::Mul, [load_at(0, 0..4), float(dtype, 0.5)])]);
    let beside = Expr::op(ScalarOp::Add, [beside, load_at(2, [1])]);
    f.nest(Nest::map(outer.to_vec(), beside), [dot, extra[0], extra[1]], Span::default())
}

/// The function with all convolutions in squares.
fn in_squares(f: Function) -> Module {
    let mut module = program(f);
    module.dims.push(Dim { name: "B".into(), min: 1, max: None });
    let mut found = 0;
    for n in 0..module.functions[0].nodes.len() {
        let node = module.functions[0].nodes[n].clone();
        if let Some(squares) = squares(&module, &module.functions[0], &node) {
            module.functions[0].nodes[n].op = Op::Nest(squares);
            found += 1;
        }
    }
    verify::verify(&module).unwrap();
    let kernels = crate::kernel::lower(&module).kernels;
    assert!(kernels.iter().any(|k| recognise(k).is_some_and(|c| c.squares)));
    assert!(found > 2, "{found} convolutions are in squares");
    module
}

#[test]
fn random_squares_are_what_they_mean() {
    for seed in generate::seeds(8) {
        let mut random = Random::new(seed);
        let mut f = Function::new("squares");
        f.results = (0..4).map(|_| (None, convolution(&mut random, &mut f))).collect();
        let mut module = in_squares(f);
        if seed % 2 == 1 {
            // Weights that are stored are transformed in advance.
            module.entries[0].inputs.iter_mut().filter(|s| matches!(s, Source::Data(_))).for_each(|s| *s = Source::Tensor(format!("{s:?}").into()));
        }
        let kernels = crate::plan::plan(&module, &crate::kernel::lower(&module), &crate::span::Sources::default()).0;
        let advance = kernels.iter().any(|k| k.stages.iter().any(|s| s.fold == Fold::Winograd && crate::kernel::winograd::transformed(s)));
        assert!(advance || seed % 2 == 0 || seed > 7, "no weights are transformed in advance");
        law(&module, &[[("B".into(), 1)].into(), [("B".into(), 3)].into()], seed);
    }
}

/// They are those of the window, but for what is rounded.
#[test]
fn squares_are_near_the_sums_of_their_windows() {
    for seed in 0..12 {
        let mut random = Random::new(seed);
        let mut f = Function::new("squares");
        f.results = (0..4).map(|_| (None, convolution(&mut random, &mut f))).collect();
        let direct = program(f.clone());
        let module = in_squares(f);
        let dims: Dims = [("B".into(), 2)].into();
        let function = &direct.functions[0];
        let inputs: Vec<_> = function
            .inputs
            .iter()
            .map(|i| {
                let shape: Vec<i64> = i.ty.shape.iter().map(|s| s.eval(&dims).unwrap()).collect();
                let values: Vec<Scalar> =
                    (0..shape.iter().product::<i64>()).map(|_| Scalar::float(i.ty.dtype, random.below(2001) as f64 / 1000.0 - 1.0)).collect();
                nnc_runtime::tensor::Tensor::from_scalars(i.ty.dtype, &shape, &values)
            })
            .collect();
        let [want, got] = [&direct, &module].map(|m| eval::function(m, FunctionId(0), &inputs, &dims).unwrap());
        for (want, got) in want.iter().zip(&got) {
            let least = if want.dtype == DType::F32 { 2e-4 } else { 1e-12 };
            (0..want.len()).for_each(|i| {
                let (want, got) = (want.get(i).to_f64(), got.get(i).to_f64());
                assert!((want - got).abs() < least, "seed {seed}: {got} is not {want}");
            });
        }
    }
}
