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

/// The gradient `[o, c, r, s]` of a convolution's weights, or `[c, o, r, s]`, by that of its results `[b, o, y, x]` and the image `[b, c, y, x]`; then
/// half of the time what an optimizer does with it.
fn gradient(random: &mut Random, f: &mut Function) -> Value {
    let dtype = if random.once_in(4) { DType::F64 } else { DType::F32 };
    let mut pick = |from: &[i64]| from[random.below(from.len())];
    let (swapped, padding, map) = (pick(&[0, 0, 1]) == 1, pick(&[0, 1, 1, 2]), pick(&[0, 1]) == 1);
    let [height, width] = [0, 1].map(|_| pick(&[2, 3, 4, 5, 7, 8, 9, 14, 16, 17, 28, 33]));
    let (mut rows, mut columns) = (pick(&[1, 3, 6, 13, 25, 100]), pick(&[1, 2, 5, 17, 33, 70]));
    while rows * columns * height * width > 40_000 {
        (rows, columns) = if rows > columns { (rows / 2, columns) } else { (rows, columns / 2) };
    }
    let images = if pick(&[0, 1]) == 1 { Size::dim("B") } else { c(pick(&[1, 2, 3])) };
    let (var, edge) = (Affine::var, 2 - 2 * padding);
    let (o, i) = if swapped { (1, 0) } else { (0, 1) };
    let outer = if swapped { [c(rows), c(columns), c(3), c(3)] } else { [c(columns), c(rows), c(3), c(3)] };
    let at = |tap: usize, point: usize| var(point).add(&var(tap)).sub(&Affine::constant(padding));
    let index = [var(4), var(i), at(2, 5), at(3, 6)].map(Index::Affine).to_vec();
    let pixel = Expr::Load { operand: 0, index, otherwise: Some(Scalar::float(dtype, 0.0)) };
    let mut input = |shape: &[Size]| f.input(&format!("x{}", f.inputs.len()), Type::new(dtype, shape));
    let image = input(&[images.clone(), c(rows), c(height + edge), c(width + edge)]);
    let inputs = [image, input(&[images.clone(), c(columns), c(height), c(width)])];
    let extra = [input(&outer), input(&outer[..1])];
    let product = Expr::op(ScalarOp::Mul, [load_at(1, [4, o, 5, 6]), pixel]);
    let dot = f.nest(Nest::fold(outer.to_vec(), vec![images, c(height), c(width)], Fold::Dot, product), inputs, Span::default());
    if !map {
        return dot;
    }
    let beside = Expr::op(ScalarOp::Sub, [load_at(1, 0..4), Expr::op(ScalarOp::Mul, [load_at(0, 0..4), float(dtype, 0.5)])]);
    let beside = if padding == 1 { beside } else { Expr::op(ScalarOp::Add, [beside, load_at(2, [0])]) };
    f.nest(Nest::map(outer.to_vec(), beside), [dot, extra[0], extra[1]], Span::default())
}

/// The function with all convolutions in squares, and how many there are.
fn in_squares(f: Function) -> (Module, usize) {
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
    assert!(kernels.iter().any(|k| recognise(k).is_some_and(|c| c.squares.is_some())));
    (module, found)
}

/// The same where most must be.
fn mostly_in_squares(f: Function) -> Module {
    let (module, found) = in_squares(f);
    assert!(found > 2, "{found} convolutions are in squares");
    module
}

#[test]
fn random_squares_are_what_they_mean() {
    for seed in generate::seeds(8) {
        let mut random = Random::new(seed);
        let mut f = Function::new("squares");
        f.results = (0..4).map(|_| (None, convolution(&mut random, &mut f))).collect();
        let mut module = mostly_in_squares(f);
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

#[test]
fn random_gradients_in_squares_are_what_they_mean() {
    for seed in generate::seeds(8) {
        let mut random = Random::new(seed);
        let mut f = Function::new("squares");
        f.results = (0..4).map(|_| (None, gradient(&mut random, &mut f))).collect();
        law(&mostly_in_squares(f), &[[("B".into(), 1)].into(), [("B".into(), 3)].into()], seed);
    }
}

/// They are those of the window, but for what is rounded.
#[test]
fn squares_are_near_the_sums_of_their_windows() {
    for seed in 0..24 {
        let mut random = Random::new(seed);
        let mut f = Function::new("squares");
        let one = if seed < 12 { convolution } else { gradient };
        f.results = (0..4).map(|_| (None, one(&mut random, &mut f))).collect();
        let direct = program(f.clone());
        let module = mostly_in_squares(f);
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

/// What documents say of errors: root mean squares of normal values' results, against sums in f64, in millionths of the results' own.
#[test]
fn errors_of_squares_are_near_those_of_windows() {
    let forward = "fn @f(x: TYPE[1, SIZE, 8, 8], w: TYPE[16, SIZE, 3, 3]) {
  %y[b, o, i, j]: TYPE[1, 16, 8, 8] = dot[c < SIZE, r < 3, s < 3](%w[o, c, r, s] * %x[b, c, i + r - 1, j + s - 1, else 0.0])
  return %y
}
";
    let gradient = "fn @f(x: TYPE[SIZE, 4, 16, 16], g: TYPE[SIZE, 8, 16, 16]) {
  %y[o, c, r, s]: TYPE[8, 4, 3, 3] = dot[b < SIZE, i < 16, j < 16](%g[b, o, i, j] * %x[b, c, i + r - 1, j + s - 1, else 0.0])
  return %y
}
";
    let function = |text: &str, size: usize, dtype: &str| {
        let text = text.replace("SIZE", &size.to_string()).replace("TYPE", dtype);
        crate::ir::parse::module(&text).unwrap().functions.remove(0)
    };
    for (what, text, size, shown, most) in [
        ("results", forward, 32, "32 channels", [0.25, 0.35]),
        ("results", forward, 512, "512 channels", [0.60, 0.35]),
        ("gradients of weights", gradient, 1, "64 squares", [0.35, 0.35]),
        ("gradients of weights", gradient, 64, "4096 squares", [0.50, 0.35]),
    ] {
        let mut random = Random::new(size as u64);
        let single = function(text, size, "f32");
        let mut normal = || Scalar::f32((0..12).map(|_| random.below(1 << 20) as f32 / (1 << 20) as f32).sum::<f32>() - 6.0);
        let shapes = single.inputs.iter().map(|i| i.ty.shape.iter().map(|s| s.as_const().unwrap()).collect::<Vec<i64>>());
        let values: Vec<(Vec<i64>, Vec<Scalar>)> =
            shapes.map(|shape| (shape.clone(), (0..shape.iter().product()).map(|_| normal()).collect())).collect();
        let run = |module: &Module, dtype: DType| -> Vec<f64> {
            let of = |(shape, values): &(Vec<i64>, Vec<Scalar>)| {
                let values: Vec<Scalar> = values.iter().map(|v| Scalar::float(dtype, v.to_f64())).collect();
                nnc_runtime::tensor::Tensor::from_scalars(dtype, shape, &values)
            };
            let inputs: Vec<_> = values.iter().map(of).collect();
            let y = eval::function(module, FunctionId(0), &inputs, &Dims::new()).unwrap().remove(0);
            (0..y.len()).map(|i| y.get(i).to_f64()).collect()
        };
        let exact = run(&program(function(text, size, "f64")), DType::F64);
        let squares = in_squares(single.clone()).0;
        let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
        let errors = [&squares, &program(single)].map(|module| {
            let found = run(module, DType::F32);
            1e6 * norm(&mut found.iter().zip(&exact).map(|(a, b)| a - b)) / norm(&mut exact.iter().copied())
        });
        println!("{what}, {shown}: in squares {:.2} millionths, in windows {:.2}", errors[0], errors[1]);
        assert!(errors.iter().zip(most).all(|(error, most)| (0.05..most).contains(error)), "{what}, {shown}: {errors:?}");
    }
}
