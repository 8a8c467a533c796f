//! The law of folds over windows, in squares and along lines: random ones, of every size at which lines, vectors, panels, tiles and blocks begin and end,
//! give the interpreter's bits.

use super::tests::{law, program};
use crate::ir::generate::{self, Random};
use crate::ir::*;
use crate::kernel::contract::recognise;
use crate::passes::windows::{lines, squares};
use crate::span::Span;
use nnc_runtime::manifest::Source;

fn c(n: i64) -> Size {
    Size::constant(n)
}

/// Sizes of programs, which are tried with two sets of them.
struct Sizes {
    random: Random,
    tried: [Dims; 2],
}

impl Sizes {
    fn new(seed: u64) -> Sizes {
        Sizes { random: Random::new(seed), tried: [Dims::new(), Dims::new()] }
    }

    fn pick(&mut self, from: &[i64]) -> i64 {
        from[self.random.below(from.len())]
    }

    /// Two numbers of these, the second one perhaps less than all.
    fn two(&mut self, from: &[i64]) -> [i64; 2] {
        let less = self.pick(&[0, 1]);
        [self.pick(from), self.pick(&[from, &[less]].concat())]
    }

    /// A size that is the first one, or known at run time only: both in turn.
    fn size(&mut self, values: [i64; 2]) -> Size {
        if self.pick(&[0, 1]) == 0 {
            return c(values[0]);
        }
        let name = format!("N{}", self.tried[0].len());
        self.tried.iter_mut().zip(values).for_each(|(dims, n)| {
            dims.insert(name.as_str().into(), n);
        });
        Size::dim(&name)
    }
}

/// A convolution `[b, o, y, x]` of an image `[b, c, y, x]` with weights `[o, c, r, s]`, or the gradient of the image; then half of the time a map of its
/// own box.
fn convolution(sizes: &mut Sizes, f: &mut Function) -> Value {
    let dtype = if sizes.random.once_in(4) { DType::F64 } else { DType::F32 };
    let (back, padding, map) = (sizes.pick(&[0, 1]) == 1, sizes.pick(&[0, 1, 1]), sizes.pick(&[0, 1]) == 1);
    let [height, width] = [0, 1].map(|_| sizes.two(&[2, 3, 4, 5, 7, 8, 9, 14, 16, 17, 28, 33]));
    let (mut from, mut to) = (sizes.two(&[1, 3, 6, 17, 40, 255, 257, 300]), sizes.two(&[1, 2, 5, 13, 25]));
    if height.iter().max() > Some(&9) || width.iter().max() > Some(&9) {
        (from, to) = (from.map(|n| n.min(7)), to.map(|n| n.min(5)));
    }
    let images = [sizes.pick(&[1, 2, 3]), 3];
    let [images, from, to, height, width] = [images, from, to, height, width].map(|values| sizes.size(values));
    let var = Affine::var;
    let at = |v: usize, tap: usize| match back {
        false => var(v).add(&var(tap)).sub(&Affine::constant(padding)),
        true => var(v).sub(&var(tap)).add(&Affine::constant(2 - padding)),
    };
    let further = |n: &Size| n + &c(2 - 2 * padding);
    let image = [images.clone(), from.clone(), further(&height), further(&width)];
    let (weight, weights) = if back {
        ([from.clone(), to.clone(), c(3), c(3)], load_at(1, [4, 1, 5, 6]))
    } else {
        ([to.clone(), from.clone(), c(3), c(3)], load_at(1, [1, 4, 5, 6]))
    };
    let pixel = Expr::Load {
        operand: 0,
        index: [var(0), var(4), at(2, 5), at(3, 6)].map(Index::Affine).to_vec(),
        otherwise: Some(Scalar::float(dtype, 0.0)),
    };
    let outer = [images, to, height, width];
    let mut input = |shape: &[Size]| f.input(&format!("x{}", f.inputs.len()), Type::new(dtype, shape));
    let (inputs, extra) = ([input(&image), input(&weight)], [input(&outer), input(&outer[1..2])]);
    let nest = Nest::fold(outer.to_vec(), vec![from, c(3), c(3)], Fold::Dot, Expr::op(ScalarOp::Mul, [pixel, weights]));
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
fn gradient(sizes: &mut Sizes, f: &mut Function) -> Value {
    let [height, width] = [0, 1].map(|_| sizes.two(&[2, 3, 4, 5, 7, 8, 9, 14, 16, 17, 28, 33]));
    gradient_of(sizes, f, [3, 3], [height, width])
}

/// The same of any window, where lines and columns are cut into blocks.
fn gradient_along_lines(sizes: &mut Sizes, f: &mut Function) -> Value {
    let taps = [0, 1].map(|_| sizes.pick(&[2, 3, 3, 4, 5, 7]));
    let height = sizes.two(&[1, 2, 5, 31, 33, 66]);
    let width = sizes.two(&[1, 15, 16, 17, 28, 32, 48, 257, 300]);
    gradient_of(sizes, f, taps, [height, width])
}

fn gradient_of(sizes: &mut Sizes, f: &mut Function, taps: [i64; 2], [height, width]: [[i64; 2]; 2]) -> Value {
    let dtype = if sizes.random.once_in(4) { DType::F64 } else { DType::F32 };
    let (swapped, padding, map) = (sizes.pick(&[0, 0, 1]) == 1, sizes.pick(&[0, 1, 1, 2]), sizes.pick(&[0, 1]) == 1);
    // An image is a window's size less its padding larger than its results.
    let least = taps.map(|n| (2 * padding + 2 - n).max(0));
    let [height, width] = [(height, least[0]), (width, least[1])].map(|(size, least)| size.map(|n| n.max(least)));
    let (mut rows, mut columns) = (sizes.two(&[1, 3, 6, 13, 25, 100]), sizes.two(&[1, 2, 5, 17, 33, 70]));
    let most = |n: [i64; 2]| n[0].max(n[1]);
    while most(rows) * most(columns) * most(height) * most(width) > 40_000 {
        let less = if most(rows) > most(columns) { &mut rows } else { &mut columns };
        *less = less.map(|n| (n + 1) / 2);
    }
    let images = [sizes.pick(&[1, 2, 3]), 3];
    let [images, rows, columns, height, width] = [images, rows, columns, height, width].map(|values| sizes.size(values));
    let var = Affine::var;
    let (o, i) = if swapped { (1, 0) } else { (0, 1) };
    let [first, second] = if swapped { [&rows, &columns] } else { [&columns, &rows] };
    let outer = [first.clone(), second.clone(), c(taps[0]), c(taps[1])];
    let at = |tap: usize, point: usize| var(point).add(&var(tap)).sub(&Affine::constant(padding));
    let index = [var(4), var(i), at(2, 5), at(3, 6)].map(Index::Affine).to_vec();
    let pixel = Expr::Load { operand: 0, index, otherwise: Some(Scalar::float(dtype, 0.0)) };
    let mut input = |shape: &[Size]| f.input(&format!("x{}", f.inputs.len()), Type::new(dtype, shape));
    let further = |n: &Size, taps: i64| n + &c(taps - 1 - 2 * padding);
    let image = input(&[images.clone(), rows, further(&height, taps[0]), further(&width, taps[1])]);
    let inputs = [image, input(&[images.clone(), columns, height.clone(), width.clone()])];
    let extra = [input(&outer), input(&outer[..1])];
    let product = Expr::op(ScalarOp::Mul, [load_at(1, [4, o, 5, 6]), pixel]);
    let dot = f.nest(Nest::fold(outer.to_vec(), vec![images, height, width], Fold::Dot, product), inputs, Span::default());
    if !map {
        return dot;
    }
    let beside = Expr::op(ScalarOp::Sub, [load_at(1, 0..4), Expr::op(ScalarOp::Mul, [load_at(0, 0..4), float(dtype, 0.5)])]);
    let beside = if padding == 1 { beside } else { Expr::op(ScalarOp::Add, [beside, load_at(2, [0])]) };
    f.nest(Nest::map(outer.to_vec(), beside), [dot, extra[0], extra[1]], Span::default())
}

/// What gives a node another fold.
type Declare = fn(&Module, &Function, &Node) -> Option<Nest>;

/// The function with all convolutions in squares, or along lines, and how many there are.
fn declared(f: Function, dims: &Dims, declare: Declare) -> (Module, usize) {
    let mut module = program(f);
    module.dims = dims.keys().map(|name| Dim { name: name.clone(), min: 0, max: None }).collect();
    let mut found = 0;
    for n in 0..module.functions[0].nodes.len() {
        let node = module.functions[0].nodes[n].clone();
        if let Some(nest) = declare(&module, &module.functions[0], &node) {
            module.functions[0].nodes[n].op = Op::Nest(nest);
            found += 1;
        }
    }
    verify::verify(&module).unwrap();
    let kernels = crate::kernel::lower(&module).kernels;
    assert!(kernels.iter().any(|k| recognise(k).is_some_and(|c| c.windows.is_some())));
    (module, found)
}

/// The same where most must be.
fn mostly(f: Function, sizes: &Sizes, declare: Declare) -> Module {
    let (module, found) = declared(f, &sizes.tried[0], declare);
    assert!(found > 2, "{found} convolutions are declared so");
    module
}

#[test]
fn random_squares_are_what_they_mean() {
    for seed in generate::seeds(8) {
        let mut sizes = Sizes::new(seed);
        let mut f = Function::new("squares");
        f.results = (0..4).map(|_| (None, convolution(&mut sizes, &mut f))).collect();
        let mut module = mostly(f, &sizes, squares);
        if seed % 2 == 1 {
            // Weights that are stored are transformed in advance.
            module.entries[0].inputs.iter_mut().filter(|s| matches!(s, Source::Data(_))).for_each(|s| *s = Source::Tensor(format!("{s:?}").into()));
        }
        let kernels = crate::plan::plan(&module, &crate::kernel::lower(&module), &crate::span::Sources::default()).0;
        let advance = kernels.iter().any(|k| k.stages.iter().any(|s| s.fold == Fold::Winograd && crate::kernel::winograd::transformed(s)));
        assert!(advance || seed % 2 == 0 || seed > 7, "no weights are transformed in advance");
        law(&module, &sizes.tried, seed);
    }
}

#[test]
fn random_gradients_in_squares_are_what_they_mean() {
    for seed in generate::seeds(8) {
        let mut sizes = Sizes::new(seed);
        let mut f = Function::new("squares");
        f.results = (0..4).map(|_| (None, gradient(&mut sizes, &mut f))).collect();
        law(&mostly(f, &sizes, squares), &sizes.tried, seed);
    }
}

#[test]
fn random_gradients_along_lines_are_what_they_mean() {
    for seed in generate::seeds(8) {
        let mut sizes = Sizes::new(seed);
        let mut f = Function::new("lines");
        f.results = (0..4).map(|_| (None, gradient_along_lines(&mut sizes, &mut f))).collect();
        law(&mostly(f, &sizes, lines), &sizes.tried, seed);
    }
}

/// They are those of the window, but for what is rounded.
#[test]
fn they_are_near_the_sums_of_their_windows() {
    for seed in 0..36 {
        let mut sizes = Sizes::new(seed);
        let mut f = Function::new("squares");
        let (one, declare): (fn(&mut Sizes, &mut Function) -> Value, Declare) = match seed {
            0..12 => (convolution, squares),
            12..24 => (gradient, squares),
            _ => (gradient_along_lines, lines),
        };
        f.results = (0..4).map(|_| (None, one(&mut sizes, &mut f))).collect();
        let direct = program(f.clone());
        let module = mostly(f, &sizes, declare);
        let Sizes { mut random, tried: [dims, _] } = sizes;
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
    let long = &gradient.replace("16, 16]", "64, 64]").replace("< 16", "< 64");
    for (what, text, declare, size, shown, most) in [
        ("results", forward, squares as Declare, 3, "3 channels", [0.25, 0.35]),
        ("results", forward, squares as Declare, 8, "8 channels", [0.25, 0.35]),
        ("results", forward, squares as Declare, 32, "32 channels", [0.25, 0.35]),
        ("results", forward, squares as Declare, 512, "512 channels", [0.60, 0.35]),
        ("gradients of weights", gradient, squares, 1, "64 squares", [0.35, 0.35]),
        ("gradients of weights", gradient, squares, 64, "4096 squares", [0.50, 0.35]),
        ("gradients of weights", gradient, lines, 64, "16384 points along lines", [0.35, 0.35]),
        ("gradients of weights", long, lines, 4, "16384 points along longer lines", [0.35, 0.35]),
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
        let other = declared(single.clone(), &Dims::new(), declare).0;
        let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
        let errors = [&other, &program(single)].map(|module| {
            let found = run(module, DType::F32);
            1e6 * norm(&mut found.iter().zip(&exact).map(|(a, b)| a - b)) / norm(&mut exact.iter().copied())
        });
        println!("{what}, {shown}: declared {:.2} millionths, in windows {:.2}", errors[0], errors[1]);
        assert!(errors.iter().zip(most).all(|(error, most)| (0.05..most).contains(error)), "{what}, {shown}: {errors:?}");
    }
}
