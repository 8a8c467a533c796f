//! Which kernels are contractions, and what one task of theirs is.
//!
//! A contraction multiplies a factor A, which does not know the *columns* of the result, with a factor B, which does not know its *rows*, and sums
//! over `k`. Columns are cut into panels as wide as two vector registers of 512 bits, rows into tiles of nearly equal height, at most [`ROWS`].
//! A task is one tile of one panel of one batch. Tiles count fastest, so that consecutive tasks share a panel of B; but panels do where there are more
//! rows than columns, so that threads share out the larger factor and each reads the smaller one, and where B is small and was packed in advance, so
//! that each thread keeps it, and its rows are still near when the next product wants them. Machine code and interpreter both count tasks this way.
//! Nothing here is about order: every cut gives the same bits.

use crate::ir::{Affine, DType, Fold, Guard, IndexAtom, Relation, Size};
use crate::kernel::linear::{Linear, address, window};
use crate::kernel::lower::product;
use crate::kernel::{Index, Instr, Kernel, Stage, Target, winograd};

/// Most rows of a tile.
pub const ROWS: i64 = 12;

/// How a kernel's outer variables take part in its product.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contraction {
    /// The stage that multiplies.
    pub stage: usize,
    /// Of the factors.
    pub dtype: DType,
    /// The instructions of its body that are A and B.
    pub factors: [usize; 2],
    /// Variables that both factors know, or neither.
    pub batch: Vec<usize>,
    /// Variables of A only.
    pub rows: Vec<usize>,
    /// Variables of B only; the last ones run along the lanes.
    pub columns: Vec<usize>,
    /// The first of these lanes' variables: from it on columns lie one after the other in all that is read and stored beside the product.
    pub near: usize,
    /// Which steps a row takes, where not all.
    pub reach: Option<Reach>,
    /// What must hold for a point to need its sum, where not all do: a condition on row and column.
    pub needs: Option<Guard>,
    /// Whether B was packed in advance and stays in the second cache: panels count fastest then, however few rows there are.
    pub stays: bool,
    /// Which fold over windows it is ([`winograd`]), where it is one. In squares the first of the lanes' variables is that of the columns, or for
    /// [`Windows::Taps`] that of a row's, lines' and columns' of the window, which follow the rows.
    pub windows: Option<Windows>,
}

/// Folds over the windows of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windows {
    /// In squares of 2x2 points, which are the columns.
    Results,
    /// Over such squares, which are the steps. The last two variables are taps of a window, neither rows nor columns.
    Taps,
    /// In lanes along lines of points, which are the steps. The last two variables are taps of a window, and the last columns.
    Lines,
}

/// The steps that row number `r` takes: those up to step `r + shift` or those from it on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Which of the two.
    pub side: Side,
    /// Between a row's number and its last or first step.
    pub shift: Size,
}

/// On which side of the diagonal a row's steps lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Up to it.
    Below,
    /// From it on.
    Above,
}

/// Lanes that make it worth to run along them.
const LANES: i64 = 16;
/// Bytes of B that stay in the second cache with what else a step needs.
const STAYS: i64 = 1 << 20;

/// Columns of a panel.
pub fn panel(dtype: DType) -> i64 {
    128 / dtype.bytes() as i64
}

/// The contraction that the kernel is, if it is one. Asked of kernels whose sizes are `n0`, `n1`, ... only, so that all who ask get one answer.
pub fn recognise(kernel: &Kernel) -> Option<Contraction> {
    if let Some(c) = winograd::recognise(kernel) {
        return Some(c);
    }
    // One row reuses nothing of B: worth it only where B must be turned anyhow, or is packed.
    roles(kernel).filter(|c| !c.rows.is_empty() || turned(kernel, c) || packed(kernel, c).is_some())
}

/// The same, whether or not anything is reused.
pub fn roles(kernel: &Kernel) -> Option<Contraction> {
    let mut dots = kernel.stages.iter().enumerate().filter(|(_, s)| s.fold == Fold::Dot);
    let ((number, stage), None) = (dots.next()?, dots.next()) else { return None };
    let outer = kernel.outer.len();
    if !stage.inner.is_empty() || stage.guards.len() > 1 || outer + stage.reds.len() > 64 || locals(&stage.body) {
        return None;
    }
    // Factors are packed before any other stage runs.
    if reads(&stage.body, &|param| kernel.params[param].written) {
        return None;
    }
    let types = crate::kernel::verify::types(kernel, &stage.body).ok()?;
    let dtype = types[stage.values[0]];
    let known = knows(&stage.body);
    let [first, second] = [0, 1].map(|f| known[stage.values[f]]);
    let only = |v: usize, mask: u64, other: u64| kernel.outer[v].as_const() != Some(1) && mask >> v & 1 == 1 && other >> v & 1 == 0;
    let last = (0..outer).rev().find(|v| only(*v, first, second) || only(*v, second, first))?;
    // Neighbours of the result lie along the last variable: it belongs to the columns.
    let b = if only(last, first, second) { 0 } else { 1 };
    let other = (0..outer).rev().find(|v| if b == 0 { only(*v, second, first) } else { only(*v, first, second) });
    // Taps of a window make poor lanes, unless they go on in the neighbours' taps.
    let narrow = |v: usize| kernel.outer[v].as_const().is_some_and(|n| n < 8);
    let (b, last) = match other {
        // What was packed in advance was packed as B.
        Some(other) if in_panels(kernel, stage, stage.values[1 - b], other, dtype).is_some() => (1 - b, other),
        Some(other) if narrow(last) && !narrow(other) && !wide(kernel, number, stage.values[b], [first, second][b], [first, second][1 - b]) => {
            (1 - b, other)
        }
        _ => (b, last),
    };
    let (a_knows, b_knows) = if b == 0 { (second, first) } else { (first, second) };
    let factors = [stage.values[1 - b], stage.values[b]];
    let rows: Vec<usize> = (0..outer).filter(|v| only(*v, a_knows, b_knows)).collect();
    let mut columns: Vec<usize> = (0..outer).filter(|v| only(*v, b_knows, a_knows)).collect();
    // Columns of which it is not known how many lie together are no neighbours: images of a batch.
    let ranges: Vec<Size> = kernel.outer.iter().chain(&stage.reds).cloned().collect();
    if let Some((form, _)) = window(kernel, &stage.body[factors[1]], &ranges)
        && by_rows(kernel, &form, &columns).is_none()
        && let Some(cut) = (1..columns.len()).find(|cut| {
            let unknown = |vars: &[usize]| vars.iter().any(|v| kernel.outer[*v].as_const().is_none());
            unknown(&columns[*cut..]) && by_rows(kernel, &form, &columns[*cut..]).is_some()
        })
    {
        columns.drain(..cut);
    }
    let batch = (0..outer).filter(|v| !rows.contains(v) && !columns.contains(v)).collect();
    let reach = match &stage.guards[..] {
        [] => None,
        list => Some(reach(&list[0], &rows, outer, &stage.reds)?),
    };
    let needs = needs(kernel, number, &rows, &columns);
    let near = near(kernel, number, &columns);
    let stores_in_lanes = kernel.stages.iter().all(|s| in_lanes(s, last));
    let mut c = Contraction { stage: number, dtype, factors, batch, rows, columns, near, reach, needs, stays: false, windows: None };
    let bytes = product(&[c.extent(&c.columns, &kernel.outer), product(&stage.reds)]).as_const().and_then(|n| n.checked_mul(dtype.bytes() as i64));
    c.stays = packed(kernel, &c).is_some() && bytes.is_some_and(|n| n <= STAYS);
    (dtype.is_float() && stores_in_lanes).then_some(c)
}

/// What the guard says about the steps of a row, where it compares the one with the other.
fn reach(guard: &Guard, rows: &[usize], outer: usize, reds: &[Size]) -> Option<Reach> {
    let ([row], [_], Relation::NonNegative) = (rows, reds, guard.relation) else { return None };
    let [row, step] = [*row, outer].map(|v| coefficient(&guard.expr, v));
    let shift = &guard.expr.constant;
    match (guard.expr.terms.len(), row, step) {
        (2, Some(1), Some(-1)) => Some(Reach { side: Side::Below, shift: shift.clone() }),
        (2, Some(-1), Some(1)) => Some(Reach { side: Side::Above, shift: shift.checked_mul(&Size::constant(-1))? }),
        _ => None,
    }
}

/// The variable's coefficient, where it is a number.
pub fn coefficient(a: &Affine, var: usize) -> Option<i64> {
    a.terms.iter().find(|(atom, _)| *atom == IndexAtom::Var(var)).and_then(|(_, c)| c.as_const())
}

/// The condition under which all that read the product do so, where it is one on row and column.
fn needs(kernel: &Kernel, dot: usize, rows: &[usize], columns: &[usize]) -> Option<Guard> {
    let ([row], [column]) = (rows, columns) else { return None };
    let [store] = &kernel.stages[dot].stores[..] else { return None };
    let Target::Local(local) = store.target else { return None };
    let mut found: Vec<Option<&Guard>> = vec![];
    for stage in &kernel.stages {
        let under = stage.guards.first().filter(|_| stage.skip && stage.guards.len() == 1);
        readers(&stage.body, local, under, &mut vec![], &mut found);
    }
    let guard = found.first().copied().flatten().filter(|g| found.iter().all(|f| *f == Some(g)))?;
    let known = [*row, *column].iter().filter(|v| coefficient(&guard.expr, **v).is_some_and(|c| c.abs() == 1)).count();
    (guard.relation == Relation::NonNegative && known == guard.expr.terms.len()).then(|| guard.clone())
}

/// The outermost condition of one guard that every read of the local stands under.
fn readers<'a>(
    body: &'a [Instr],
    local: usize,
    under: Option<&'a Guard>,
    conditions: &mut Vec<Option<&'a Guard>>,
    found: &mut Vec<Option<&'a Guard>>,
) {
    for instr in body {
        conditions.push(match instr {
            Instr::Holds(list) if list.len() == 1 => list.first(),
            _ => None,
        });
        match instr {
            Instr::Local(l) if *l == local => found.push(under),
            Instr::Select { condition, then, otherwise } => {
                let start = conditions.len() - 1;
                let holds = conditions[*condition];
                for (side, under) in [(then, under.or(holds)), (otherwise, under)] {
                    conditions.truncate(start);
                    readers(&side.0, local, under, conditions, found);
                }
                conditions.truncate(start);
                conditions.push(None);
            }
            _ => {}
        }
    }
}

/// Whether the variables of this factor only make good lanes together, though the last one has few points: beside each other where they are stored,
/// many, and packed by vectors.
fn wide(kernel: &Kernel, stage: usize, factor: usize, known: u64, others: u64) -> bool {
    let columns: Vec<usize> =
        (0..kernel.outer.len()).filter(|v| kernel.outer[*v].as_const() != Some(1) && known >> v & 1 == 1 && others >> v & 1 == 0).collect();
    let count = |vars: &[usize]| sizes(kernel, vars).iter().try_fold(1i64, |n, (_, size)| n.checked_mul(size.as_const()?));
    let many = |vars: &[usize], least: i64| count(vars).is_none_or(|n| n >= least);
    if !many(&columns, 3 * LANES) || !many(&columns[near(kernel, stage, &columns)..], LANES) {
        return false;
    }
    let body = &kernel.stages[stage];
    let ranges: Vec<Size> = kernel.outer.iter().chain(&body.reds).cloned().collect();
    window(kernel, &body.body[factor], &ranges)
        .is_some_and(|(form, _)| by_rows(kernel, &form, &columns).is_some() || by_steps(kernel, body, &form).is_some())
}

fn unit(step: &Size) -> bool {
    step.as_const() == Some(1)
}

fn sizes(kernel: &Kernel, vars: &[usize]) -> Vec<(usize, Size)> {
    vars.iter().map(|v| (*v, kernel.outer[*v].clone())).collect()
}

/// The step from one column to the next there, 1 or 2, if at least as many columns as half a panel has follow each other so.
pub fn by_rows(kernel: &Kernel, form: &Linear, columns: &[usize]) -> Option<i64> {
    let runs = form.runs(&sizes(kernel, columns));
    let run = runs.last()?;
    let long = runs.len() == 1 || run.extent.as_const().is_some_and(|n| n >= LANES);
    run.step.as_const().filter(|step| long && (1..=2).contains(step))
}

/// The step of the last reduction variable there, 1 or 2, if it has more than a few points.
pub fn by_steps(kernel: &Kernel, stage: &Stage, form: &Linear) -> Option<i64> {
    let long = stage.reds.last().is_some_and(|n| n.as_const().is_none_or(|n| n >= 4));
    let step = form.steps.get(kernel.outer.len() + stage.reds.len().checked_sub(1)?)?;
    step.as_const().filter(|step| long && (1..=2).contains(step))
}

/// The place in `columns` from which on they lie one after the other in all that other stages read and all that is stored.
pub fn near(kernel: &Kernel, product: usize, columns: &[usize]) -> usize {
    let last = columns.len().saturating_sub(1);
    let beside = |cut: &usize| {
        let group = sizes(kernel, &columns[*cut..]);
        kernel.stages.iter().enumerate().all(|(n, stage)| {
            let vars = kernel.outer.len() + stage.inner.len() + stage.reds.len();
            let stored = stage.stores.iter().all(|store| match &store.target {
                Target::Local(_) => true,
                Target::Param { param, index, .. } => in_order(kernel, *param, index, &group, vars),
            });
            stored && (n == product || body_in_order(kernel, &stage.body, &group, vars))
        })
    };
    (0..last).find(beside).unwrap_or(last)
}

/// Whether the access goes from element to element as the group of variables does, or stays where it is.
fn in_order(kernel: &Kernel, param: usize, index: &[Index], group: &[(usize, Size)], vars: usize) -> bool {
    address(kernel, param, index, vars).is_some_and(|form| match form.runs(group).as_slice() {
        [] => true,
        [run] => unit(&run.step) || run.step.as_const() == Some(0),
        _ => false,
    })
}

fn body_in_order(kernel: &Kernel, body: &[Instr], group: &[(usize, Size)], vars: usize) -> bool {
    let knows = |mask: u64| group.iter().any(|(v, _)| mask >> v & 1 == 1);
    body.iter().all(|instr| match instr {
        Instr::Const(_) | Instr::Local(_) | Instr::Op(..) | Instr::Cast(..) => true,
        Instr::Index(a) => !knows(affine(a)),
        Instr::Holds(list) => !knows(guards(list)),
        Instr::Load { param, index, otherwise: None } => in_order(kernel, *param, index, group, vars),
        Instr::Load { .. } => false,
        Instr::Select { then, otherwise, .. } => [then, otherwise].iter().all(|side| body_in_order(kernel, &side.0, group, vars)),
    })
}

/// Whether B is a load whose last axis follows the last reduction variable and knows nothing of the columns.
fn turned(kernel: &Kernel, c: &Contraction) -> bool {
    let (stage, outer) = (&kernel.stages[c.stage], kernel.outer.len());
    let Instr::Load { index, .. } = &stage.body[c.factors[1]] else { return false };
    let Some(Index::Affine(last)) = index.last() else { return false };
    let mask = affine(last);
    !stage.reds.is_empty() && mask >> (outer + stage.reds.len() - 1) & 1 == 1 && c.columns.last().is_some_and(|v| mask >> v & 1 == 0)
}

/// The parameter that B is, where it lies in packed panels: `[panel, k, column within the panel]`, all steps of a panel one after the other.
pub fn packed(kernel: &Kernel, c: &Contraction) -> Option<usize> {
    let [column] = c.columns[..] else { return None };
    in_panels(kernel, &kernel.stages[c.stage], c.factors[1], column, c.dtype)
}

fn in_panels(kernel: &Kernel, stage: &Stage, factor: usize, column: usize, dtype: DType) -> Option<usize> {
    let Instr::Load { param, index, otherwise: None } = &stage.body[factor] else { return None };
    let outer = kernel.outer.len();
    (*index == panels(column, outer..outer + stage.reds.len(), dtype)).then_some(*param)
}

/// The index of an element of packed panels.
pub fn panels(column: usize, steps: std::ops::Range<usize>, dtype: DType) -> Vec<Index> {
    let (column, width) = (Affine::var(column), Size::constant(panel(dtype)));
    let steps = steps.map(Affine::var);
    std::iter::once(column.div(&width)).chain(steps).chain([column.modulo(&width)]).map(Index::Affine).collect()
}

/// Whether every element that the stage stores belongs to one value of the variable, and is stored once.
fn in_lanes(stage: &Stage, var: usize) -> bool {
    stage.stores.iter().all(|store| match &store.target {
        Target::Local(_) => true,
        Target::Param { index, fold, .. } => {
            let places: Option<u64> =
                index.iter().map(|i| if let Index::Affine(a) = i { Some(affine(a)) } else { None }).try_fold(0, |m, i| Some(m | i?));
            fold.is_none() && places.is_some_and(|m| m >> var & 1 == 1)
        }
    })
}

/// Whether the body loads from such a parameter.
fn reads(body: &[Instr], such: &dyn Fn(usize) -> bool) -> bool {
    body.iter().any(|i| match i {
        Instr::Load { param, .. } => such(*param),
        Instr::Select { then, otherwise, .. } => reads(&then.0, such) || reads(&otherwise.0, such),
        Instr::Const(_) | Instr::Local(_) | Instr::Index(_) | Instr::Holds(_) | Instr::Op(..) | Instr::Cast(..) => false,
    })
}

fn locals(body: &[Instr]) -> bool {
    body.iter().any(|i| match i {
        Instr::Local(_) => true,
        Instr::Select { then, otherwise, .. } => locals(&then.0) || locals(&otherwise.0),
        Instr::Const(_) | Instr::Load { .. } | Instr::Index(_) | Instr::Holds(_) | Instr::Op(..) | Instr::Cast(..) => false,
    })
}

fn affine(a: &Affine) -> u64 {
    let mut mask = 0;
    a.visit_vars(&mut |v| mask |= 1 << v);
    mask
}

fn guards(list: &[Guard]) -> u64 {
    list.iter().fold(0, |m, g| m | affine(&g.expr))
}

/// The variables that each instruction's value depends on, as bits.
fn knows(body: &[Instr]) -> Vec<u64> {
    let mut known = Vec::with_capacity(body.len());
    block(body, &mut known);
    known
}

fn block(body: &[Instr], known: &mut Vec<u64>) {
    for instr in body {
        let mask = match instr {
            Instr::Const(_) | Instr::Local(_) => 0,
            Instr::Load { index, .. } => index.iter().fold(0, |m, i| {
                m | match i {
                    Index::Affine(a) => affine(a),
                    Index::Value(v) => known[*v],
                }
            }),
            Instr::Index(a) => affine(a),
            Instr::Holds(list) => guards(list),
            Instr::Op(_, args) => args.iter().fold(0, |m, a| m | known[*a]),
            Instr::Cast(_, a) => known[*a],
            Instr::Select { condition, then, otherwise } => {
                let start = known.len();
                [then, otherwise].iter().fold(known[*condition], |m, side| {
                    block(&side.0, known);
                    let value = known[side.1];
                    known.truncate(start);
                    m | value
                })
            }
        };
        known.push(mask);
    }
}

/// How many pieces of at most this size.
pub fn cut(n: Size, by: i64) -> Size {
    match n.checked_add(&Size::constant(by - 1)) {
        Some(n) => n.div(&Size::constant(by)).unwrap_or_else(|| unreachable!("{by} is not 0")),
        None => Size::constant(i64::MAX),
    }
}

impl Contraction {
    /// The product of some variables' sizes.
    pub fn extent(&self, vars: &[usize], outer: &[Size]) -> Size {
        product(&vars.iter().map(|v| outer[*v].clone()).collect::<Vec<_>>())
    }

    /// How many columns.
    pub fn width(&self, outer: &[Size]) -> Size {
        let sizes: Vec<Size> = self.columns.iter().map(|v| outer[*v].clone()).collect();
        if self.windows == Some(Windows::Results) { winograd::squares(&sizes) } else { product(&sizes) }
    }

    /// How many tasks there are.
    pub fn tasks(&self, outer: &[Size]) -> Size {
        let panels = cut(self.width(outer), panel(self.dtype));
        product(&[self.extent(&self.batch, outer), panels, self.tiles(outer)])
    }

    /// How many tiles the rows are cut into: an even number, unless it is one, where rows are shared out between threads.
    pub fn tiles(&self, outer: &[Size]) -> Size {
        let rows = self.extent(&self.rows, outer);
        let [one, two, high] = [1, 2, 2 * ROWS].map(Size::constant);
        // Of so many rows two tiles each, and the rest; the last term is 1 for at most ROWS of them.
        let even = || {
            let pairs = rows.div(&high)?.checked_add(&one)?.checked_mul(&two)?;
            pairs.checked_add(&high.div(&rows.checked_add(&Size::constant(ROWS))?)?.neg())
        };
        if self.stays || self.windows == Some(Windows::Lines) { even() } else { None }.unwrap_or_else(|| cut(rows.clone(), ROWS))
    }

    /// How many of them, one after the other, share a panel of B, or where panels count fastest, rows of A.
    pub fn whole(&self, outer: &[Size]) -> Size {
        let (rows, columns) = (self.extent(&self.rows, outer), self.width(outer));
        let (tiles, panels) = (self.tiles(outer), cut(columns.clone(), panel(self.dtype)));
        if self.stays {
            return panels;
        }
        // 1 div (rows div (columns + 1) + 1) is 0 where there are more rows, else 1.
        let one = Size::constant(1);
        let over = |a: &Size, b: &Size| a.div(&b.checked_add(&one)?);
        let wide = over(&rows, &columns).and_then(|q| over(&one, &q));
        let mixed = wide.and_then(|wide| panels.checked_add(&wide.checked_mul(&tiles.checked_add(&panels.neg())?)?));
        mixed.unwrap_or(one)
    }

    /// Calls `see` with every outer point of a task until it gives nothing.
    pub fn points(&self, task: i64, outer: &[i64], see: &mut dyn FnMut(&[i64]) -> Option<()>) -> Option<()> {
        let extent = |vars: &[usize]| vars.iter().map(|v| outer[*v]).product::<i64>();
        // Of a square the first point, then what is beside and below it.
        let results = self.windows == Some(Windows::Results);
        let mut halves = outer.to_vec();
        if results {
            self.columns.iter().rev().take(2).for_each(|v| halves[*v] = (outer[*v] + 1) / 2);
        }
        let (rows, columns) = (extent(&self.rows), self.columns.iter().map(|v| halves[*v]).product::<i64>());
        let sizes: Vec<Size> = outer.iter().map(|n| Size::constant(*n)).collect();
        let tiles = self.tiles(&sizes).as_const().unwrap_or_else(|| unreachable!("the sizes are numbers"));
        let width = panel(self.dtype);
        let panels = (columns + width - 1) / width;
        let (batch, within) = (task / (tiles * panels), task % (tiles * panels));
        let (first, tile) =
            if self.stays || rows > columns { (within % panels * width, within / panels) } else { (within / tiles * width, within % tiles) };
        let start = |tile: i64| tile * (rows / tiles) + tile.min(rows % tiles);
        let mut point = vec![0; outer.len()];
        let set = |vars: &[usize], mut n: i64, point: &mut [i64]| {
            for v in vars.iter().rev() {
                (point[*v], n) = (n % halves[*v], n / halves[*v]);
            }
        };
        set(&self.batch, batch, &mut point);
        for row in start(tile)..start(tile + 1) {
            set(&self.rows, row, &mut point);
            for column in first..columns.min(first + width) {
                set(&self.columns, column, &mut point);
                if self.windows == Some(Windows::Taps) {
                    for tap in 0..9 {
                        (point[outer.len() - 2], point[outer.len() - 1]) = (tap / 3, tap % 3);
                        see(&point)?;
                    }
                    continue;
                }
                let [.., y, x] = self.columns[..] else {
                    see(&point)?;
                    continue;
                };
                if !results {
                    see(&point)?;
                    continue;
                }
                let corner = [2 * point[y], 2 * point[x]];
                for (i, j) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                    (point[y], point[x]) = (corner[0] + i, corner[1] + j);
                    if point[y] < outer[y] && point[x] < outer[x] {
                        see(&point)?;
                    }
                }
            }
        }
        Some(())
    }
}
