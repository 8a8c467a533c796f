//! Convolutions in squares of 2x2 results ([`Fold::Winograd`]) as contractions: rows are the weights', columns are squares.
//!
//! A panel holds as many squares as another one columns, in the order of the image, line after line. A task is one tile of one panel: all points of
//! its squares. Weights may be transformed in advance: then the window has 4x4 points ([`transformed`]).
//!
//! The gradients of windows' weights in lanes along lines ([`Fold::DotLines`]): rows are the results', columns the image's channels and taps.
//!
//! Those in squares ([`Fold::WinogradWeights`]): steps are squares, rows the image's channels, columns the results'. A task is all taps of a
//! tile of a panel.

use crate::ir::window::moves;
use crate::ir::{Affine, Fold, Scalar, Size};
use crate::kernel::body::Code;
use crate::kernel::contract::{Contraction, Windows, near};
use crate::kernel::linear::{Linear, address};
use crate::kernel::lower::product;
use crate::kernel::{Index, Instr, Kernel, Param, Stage, Store, Target};
use crate::math::winograd;

/// The image as it is read: its address, and of the two axes along which the window moves what is added and the size.
pub struct Image {
    pub form: Linear,
    /// Lines, then columns.
    pub axes: [(i64, Size); 2],
}

/// The contraction that the kernel is, if it has such a stage.
pub fn recognise(kernel: &Kernel) -> Option<Contraction> {
    let (number, stage) = kernel.stages.iter().enumerate().find(|(_, s)| s.fold.is_windowed())?;
    let outer = kernel.outer.len();
    let known = |factor: usize| {
        let mut known = vec![false; outer + stage.reds.len()];
        if let Instr::Load { index, .. } = &stage.body[stage.values[factor]] {
            index.iter().for_each(|i| {
                if let Index::Affine(a) = i {
                    a.visit_vars(&mut |v| known[v] = true)
                }
            });
        }
        known
    };
    let (first, image) = (known(0), known(1));
    let only = |a: &[bool], b: &[bool]| (0..outer).filter(|v| kernel.outer[*v].as_const() != Some(1) && a[*v] && !b[*v]).collect::<Vec<_>>();
    let (mut rows, mut columns) = (only(&first, &image), only(&image, &first));
    let batch = (0..outer).filter(|v| !rows.contains(v) && !columns.contains(v)).collect();
    let (mut factors, dtype) = ([stage.values[0], stage.values[1]], crate::kernel::verify::types(kernel, &stage.body).ok()?[stage.values[0]]);
    let (windows, near) = match stage.fold {
        Fold::Winograd => (Windows::Results, columns.len().checked_sub(1)?),
        Fold::DotLines => (Windows::Lines, near(kernel, number, &columns)),
        _ => {
            factors.reverse();
            let near = near(kernel, number, &columns) + 3 - columns.len();
            (rows, columns) = (columns, rows);
            rows.retain(|v| v + 2 < outer);
            (Windows::Taps, near)
        }
    };
    Some(Contraction { stage: number, dtype, factors, batch, rows, columns, near, reach: None, needs: None, stays: false, windows: Some(windows) })
}

/// Whether the stage's weights are transformed already.
pub fn transformed(stage: &Stage) -> bool {
    stage.reds.last().is_some_and(|n| n.as_const() == Some(4))
}

/// The image, and the address of what it is multiplied by: the weights, or the gradient.
pub fn factors(kernel: &Kernel, c: &Contraction) -> Option<(Image, Linear)> {
    let (stage, outer) = (&kernel.stages[c.stage], kernel.outer.len());
    let vars = outer + stage.reds.len();
    let [Instr::Load { param: weights, index: at, .. }, Instr::Load { param, index, .. }] = [0, 1].map(|f| &stage.body[stage.values[f]]) else {
        return None;
    };
    let axes: Vec<Affine> = index.iter().map(|i| if let Index::Affine(a) = i { Some(a.clone()) } else { None }).collect::<Option<_>>()?;
    let axis = |back: usize| {
        let (axis, offset) = moves(&axes, outer - back, vars - back)?;
        Some((offset, kernel.params[*param].shape[axis].clone()))
    };
    let image = Image { form: address(kernel, *param, index, vars)?, axes: [axis(2)?, axis(1)?] };
    Some((image, address(kernel, *weights, at, vars)?))
}

/// The sizes of some variables, and of squares along the last two of them.
pub fn halved(sizes: &[Size]) -> Vec<Size> {
    let last = sizes.len().saturating_sub(2);
    let half = |n: &Size| crate::kernel::contract::cut(n.clone(), 2);
    sizes.iter().enumerate().map(|(n, size)| if n < last { size.clone() } else { half(size) }).collect()
}

/// How many squares.
pub fn squares(sizes: &[Size]) -> Size {
    product(&halved(sizes))
}

/// Weights transformed in advance.
pub struct Advance {
    /// The weights' parameter.
    pub weights: usize,
    /// The kernel that transforms them, for each point of its box.
    pub packer: Kernel,
    /// The values of its sizes, which are its box; and what it writes, 4x4 times that. In the sizes of the convolution.
    pub points: Vec<Size>,
    pub shape: Vec<Size>,
    /// The convolution that reads them from a further parameter.
    pub reader: Kernel,
}

/// The same convolution of weights that are transformed in advance, where they are a whole parameter.
pub fn advance(kernel: &Kernel, c: &Contraction) -> Option<Advance> {
    let (stage, outer) = (&kernel.stages[c.stage], kernel.outer.len());
    let Instr::Load { param, index, .. } = &stage.body[c.factors[0]] else { return None };
    let index: Vec<Affine> = index.iter().map(|i| if let Index::Affine(a) = i { Some(a.clone()) } else { None }).collect::<Option<_>>()?;
    let [axes @ .., _, _] = &index[..] else { return None };
    let axes: Vec<usize> = axes.iter().map(Affine::as_var).collect::<Option<_>>()?;
    let range = |v: usize| if v < outer { &kernel.outer[v] } else { &stage.reds[v - outer] };
    let shape = &kernel.params[*param].shape;
    // Steps are contiguous in the result.
    let mut vars = axes.clone();
    vars.sort_unstable();
    let whole = axes.iter().zip(shape).all(|(v, size)| range(*v) == size) && vars.windows(2).all(|w| w[0] < w[1]);
    if c.windows != Some(Windows::Results) || transformed(stage) || !whole || vars.last() != Some(&outer) {
        return None;
    }
    let number = |v: usize| vars.iter().position(|known| *known == v).expect("an axis");
    let (own, four): (Vec<Size>, _) = ((0..vars.len()).map(|n| Size::dim(&format!("n{n}"))).collect(), Size::constant(4));
    let squares = |sizes: &[Size]| [&[four.clone(), four.clone()], sizes].concat();
    let mut code = Code::default();
    let g = [0, 1, 2].map(|r| {
        [0, 1, 2].map(|s| {
            let of = |v: usize| if v > outer { Affine::constant(if v == outer + 1 { r } else { s }) } else { Affine::var(number(v)) };
            let index = index.iter().map(|a| Index::Affine(a.substitute(&of))).collect();
            code.push(Instr::Load { param: 0, index, otherwise: None })
        })
    });
    let half = code.push(Instr::Const(Scalar::float(c.dtype, 0.5)));
    let values: Vec<usize> = winograd::weights(half, &mut |op, args| code.op(op, args), g).into_iter().flatten().collect();
    let store = |n: usize| {
        let at = [n / 4, n % 4].map(|n| Affine::constant(n as i64)).into_iter().chain((0..vars.len()).map(Affine::var));
        Store { result: n, target: Target::Param { param: 1, index: at.map(Index::Affine).collect(), fold: None } }
    };
    let stores = (0..16).map(store).collect();
    let transform = Stage { inner: vec![], reds: vec![], guards: vec![], skip: false, fold: Fold::None, body: code.finish(), values, stores };
    let from = axes.iter().map(|v| own[number(*v)].clone()).chain([Size::constant(3), Size::constant(3)]).collect();
    let params = vec![Param { dtype: c.dtype, shape: from, written: false }, Param { dtype: c.dtype, shape: squares(&own), written: true }];
    let packer = Kernel { name: "squares".into(), sizes: own.len(), params, outer: own.clone(), locals: vec![], stages: vec![transform] };
    let points: Vec<Size> = vars.iter().map(|v| range(*v).clone()).collect();
    let mut reader = kernel.clone();
    reader.params.push(Param { dtype: c.dtype, shape: squares(&points), written: false });
    let stage = &mut reader.stages[c.stage];
    let at = [outer + 1, outer + 2].into_iter().chain(vars).map(|v| Index::Affine(Affine::var(v))).collect();
    stage.body[c.factors[0]] = Instr::Load { param: kernel.params.len(), index: at, otherwise: None };
    stage.reds.splice(1.., [four.clone(), four.clone()]);
    Some(Advance { weights: *param, packer, shape: squares(&points), points, reader })
}
