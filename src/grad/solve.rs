//! Inverting a load: which points of a box read a given element.
//!
//! In: a box with guards and the quasi-affine index of a load. Out: the same set of points as a box over the *element's* indices first, then
//! reduction variables; every old variable as an expression in the new ones; guards. For every element, the new reduction box under the guards
//! runs through exactly the old points that load it, each once. Nothing, where the map does not solve.

use crate::grad::bounds::Bounds;
use crate::ir::{Affine, Dim, Guard, IndexAtom, Relation, Size, Var};

/// The points that load element `a`, for `a` in variables `0..rank`.
pub struct Solved {
    /// Sizes of the variables after the element's.
    pub reds: Vec<Size>,
    /// For each old variable, its value.
    pub old: Vec<Affine>,
    /// Which points take part; those that always hold are left out.
    pub guards: Vec<Guard>,
}

/// What a working variable is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// An index of the element: known.
    Element,
    /// An output index of the old box.
    Out,
    /// A reduction index of the old box.
    Red,
    /// The quotient of a division, any integer.
    Quotient,
    /// The remainder of a division.
    Rest,
}

/// Which variable an equation is solved for, least first: the only one; kind; coefficient 1 or -1; the largest range.
type Score = (bool, u8, bool, i64);

struct System<'a> {
    dims: &'a [Dim],
    kinds: Vec<Kind>,
    ranges: Vec<Option<Size>>,
    /// Divisions met: dividend over working variables, divisor, quotient, remainder.
    divisions: Vec<(Affine, Size, Var, Var)>,
    /// Affines that are zero.
    equations: Vec<Affine>,
    solutions: Vec<Option<Affine>>,
    guards: Vec<Guard>,
}

/// Solves `index(point) = a` over the box `ranges`, whose first `outs` variables are outputs.
pub fn solve(dims: &[Dim], ranges: &[Size], outs: usize, guards: &[Guard], index: &[Affine], shape: &[Size]) -> Option<Solved> {
    let rank = shape.len();
    let mut s = System { dims, kinds: vec![], ranges: vec![], divisions: vec![], equations: vec![], solutions: vec![], guards: vec![] };
    for size in shape {
        s.fresh(Kind::Element, Some(size.clone()));
    }
    for (v, size) in ranges.iter().enumerate() {
        s.fresh(if v < outs { Kind::Out } else { Kind::Red }, Some(size.clone()));
    }
    let shift = |a: &Affine| a.substitute(&|v| Affine::var(v + rank));
    for (k, a) in index.iter().enumerate() {
        let flat = s.flatten(&shift(a), true)?;
        s.equations.push(flat.sub(&Affine::var(k)));
    }
    // Divisions first met in a guard stay inside it: only those that the index shares become known.
    let guards: Vec<Guard> =
        guards.iter().map(|g| Some(Guard { expr: s.flatten(&shift(&g.expr), false)?, relation: g.relation })).collect::<Option<_>>()?;
    while s.step()? {}
    for guard in &guards {
        if guard.relation == Relation::Zero
            && let expr = s.known(&guard.expr)
            && let Some((v, c)) = s.unit(&expr)
        {
            s.eliminate(v, &c, &expr);
        } else {
            s.guards.push(guard.clone());
        }
    }
    s.range_quotients()?;
    Some(s.finish(rank, ranges.len()))
}

impl System<'_> {
    fn fresh(&mut self, kind: Kind, range: Option<Size>) -> Var {
        self.kinds.push(kind);
        self.ranges.push(range);
        self.solutions.push(None);
        self.kinds.len() - 1
    }

    /// Divisions and remainders replaced by working variables: of every one (`all`), or of those already met.
    fn flatten(&mut self, a: &Affine, all: bool) -> Option<Affine> {
        let mut sum = Affine::constant(a.constant.clone());
        for (atom, c) in &a.terms {
            let value = match atom {
                IndexAtom::Var(v) => Affine::var(*v),
                IndexAtom::Div(inner, by) | IndexAtom::Mod(inner, by) => {
                    let inner = self.flatten(inner, all)?;
                    let quotient = matches!(atom, IndexAtom::Div(..));
                    match self.divisions.iter().find(|d| d.0 == inner && d.1 == *by) {
                        Some((_, _, q, r)) => Affine::var(if quotient { *q } else { *r }),
                        None if all => {
                            let (q, r) = (self.fresh(Kind::Quotient, None), self.fresh(Kind::Rest, Some(by.clone())));
                            self.equations.push(inner.sub(&Affine::var(q).scale(by)).sub(&Affine::var(r)));
                            self.divisions.push((inner, by.clone(), q, r));
                            Affine::var(if quotient { q } else { r })
                        }
                        None if quotient => inner.div(by),
                        None => inner.modulo(by),
                    }
                }
            };
            sum = sum.add(&value.scale(c));
        }
        Some(sum)
    }

    fn open(&self, v: Var) -> bool {
        self.kinds[v] != Kind::Element && self.solutions[v].is_none()
    }

    /// Solutions put in.
    fn known(&self, a: &Affine) -> Affine {
        a.substitute(&|v| self.solutions[v].clone().unwrap_or_else(|| Affine::var(v)))
    }

    /// Solves one equation for one variable, or turns it into a guard; false when none is left.
    fn step(&mut self) -> Option<bool> {
        if self.equations.is_empty() {
            return Some(false);
        }
        let equations: Vec<Affine> = self.equations.iter().map(|e| self.known(e)).collect();
        if let Some(i) = (0..equations.len()).find(|i| self.digits(&equations[*i])) {
            self.equations.remove(i);
            return Some(true);
        }
        let mut best: Option<(Score, usize, Var, Size)> = None;
        for (i, e) in equations.iter().enumerate() {
            let mut open = vec![];
            e.visit_vars(&mut |v| {
                if self.open(v) && !open.contains(&v) {
                    open.push(v);
                }
            });
            if open.is_empty() {
                self.equations.remove(i);
                if e.as_size().is_none_or(|s| s.as_const() != Some(0)) {
                    self.guards.push(Guard { expr: e.clone(), relation: Relation::Zero });
                }
                return Some(true);
            }
            for (v, c) in self.direct(e) {
                let unit = c.as_const().is_some_and(|n| n.abs() == 1);
                let rank = match self.kinds[v] {
                    Kind::Quotient if unit => 0,
                    Kind::Out => 1,
                    Kind::Red => 2,
                    Kind::Rest => 3,
                    Kind::Quotient => 4,
                    Kind::Element => continue,
                };
                let extent = self.ranges[v].as_ref().map_or(i64::MAX, |r| r.as_const().unwrap_or(i64::MAX));
                let score = (open.len() > 1, rank, !unit, -extent);
                if best.as_ref().is_none_or(|b| score < b.0) {
                    best = Some((score, i, v, c));
                }
            }
        }
        let (_, i, v, c) = best?;
        self.equations.remove(i);
        self.eliminate(v, &c, &equations[i]);
        Some(true)
    }

    /// `v + c*rest = a` with `0 <= v < range <= c` and `a` known is `v = mod(a, c)`, `rest = div(a, c)`: split heads, patches. False where `e`
    /// is not of this form.
    fn digits(&mut self, e: &Affine) -> bool {
        let bounds = self.bounds();
        let mut open = 0;
        e.visit_vars(&mut |v| open += usize::from(self.open(v)));
        let direct = self.direct(e);
        if direct.len() < 2 || direct.len() < open {
            return false;
        }
        for (v, unit) in &direct {
            let (Some(range), Some(sign @ (1 | -1))) = (&self.ranges[*v], unit.as_const()) else { continue };
            let e = e.scale(&Size::constant(sign));
            let others: Vec<(Var, Size)> = direct.iter().filter(|(u, _)| u != v).map(|(u, c)| (*u, c * &Size::constant(sign))).collect();
            let base = others.iter().map(|(_, c)| if bounds.size_positive(c) { c.clone() } else { c.neg() }).find(|base| {
                let multiple = |c: &Size| c.modulo(base).is_some_and(|m| m.as_const() == Some(0));
                bounds.size_nonnegative(&(base - range)) && others.iter().all(|(_, c)| multiple(c))
            });
            let Some(base) = base else { continue };
            let sum = |terms: &[(Var, Size)]| terms.iter().fold(Affine::default(), |sum, (u, c)| sum.add(&Affine::var(*u).scale(c)));
            let known = Affine::var(*v).add(&sum(&others)).sub(&e);
            let quotients: Vec<(Var, Size)> = others.iter().map(|(u, c)| (*u, c.div(&base).expect("a multiple of a positive size"))).collect();
            let digit = known.modulo(&base);
            self.guards.push(Guard::lt(&digit, &Affine::constant(range.clone())));
            self.equations.push(sum(&quotients).sub(&known.div(&base)));
            self.set(*v, digit);
            return true;
        }
        false
    }

    /// What is known of sizes alone, in a box that is not empty.
    fn bounds(&self) -> Bounds {
        Bounds::new(self.dims, &self.ranges.iter().flatten().cloned().collect::<Vec<_>>())
    }

    /// Open variables that stand in `e` outside divisions only, and whose coefficient has a known sign.
    fn direct(&self, e: &Affine) -> Vec<(Var, Size)> {
        let bounds = self.bounds();
        let mut inside = vec![];
        for (atom, _) in &e.terms {
            match atom {
                IndexAtom::Var(_) => {}
                IndexAtom::Div(a, _) | IndexAtom::Mod(a, _) => a.visit_vars(&mut |v| inside.push(v)),
            }
        }
        let signed = |c: &Size| bounds.size_positive(c) || bounds.size_positive(&c.neg());
        e.terms
            .iter()
            .filter_map(|(atom, c)| match atom {
                IndexAtom::Var(v) if self.open(*v) && !inside.contains(v) && signed(c) => Some((*v, c.clone())),
                IndexAtom::Var(_) | IndexAtom::Div(..) | IndexAtom::Mod(..) => None,
            })
            .collect()
    }

    /// An open variable of an equality guard with coefficient 1 or -1: remainders first, then reductions.
    fn unit(&self, e: &Affine) -> Option<(Var, Size)> {
        let rank = |v: Var| match self.kinds[v] {
            Kind::Rest => 0,
            Kind::Red => 1,
            Kind::Out => 2,
            Kind::Quotient => 3,
            Kind::Element => 4,
        };
        self.direct(e).into_iter().filter(|(_, c)| c.as_const().is_some_and(|n| n.abs() == 1)).min_by_key(|(v, _)| rank(*v))
    }

    /// `equation = c*v + rest = 0` gives `v`, with the guards that make it an existing point.
    fn eliminate(&mut self, v: Var, c: &Size, equation: &Affine) {
        let rest = equation.sub(&Affine::var(v).scale(c));
        let positive = self.bounds().size_positive(c);
        let (c, a) = if positive { (c.clone(), rest.scale(&Size::constant(-1))) } else { (c.neg(), rest) };
        if c.as_const() != Some(1) {
            self.guards.push(Guard { expr: a.modulo(&c), relation: Relation::Zero });
        }
        if let Some(range) = self.ranges[v].clone() {
            let last = Affine::constant(&c * &(&range - &Size::constant(1)));
            self.guards.push(Guard { expr: a.clone(), relation: Relation::NonNegative });
            self.guards.push(Guard::le(&a, &last));
        }
        self.set(v, a.div(&c));
    }

    fn set(&mut self, v: Var, value: Affine) {
        let put = |a: &Affine| a.substitute(&|u| if u == v { value.clone() } else { Affine::var(u) });
        for solution in self.solutions.iter_mut().flatten() {
            *solution = put(solution);
        }
        self.solutions[v] = Some(value);
    }

    /// A quotient that is still open becomes a reduction over the values that its dividend allows.
    fn range_quotients(&mut self) -> Option<()> {
        let bounds = Bounds::new(self.dims, &self.ranges.iter().map(|r| r.clone().unwrap_or_else(|| Size::constant(1))).collect::<Vec<_>>());
        for (dividend, by, q, _) in self.divisions.clone() {
            if !self.open(q) {
                continue;
            }
            let mut nested = false;
            dividend.visit_vars(&mut |v| nested |= self.ranges[v].is_none());
            if nested {
                return None;
            }
            let (low, high) = (bounds.lower(&dividend)?.div(&by)?, bounds.upper(&dividend)?.div(&by)?);
            let count = &(&high - &low) + &Size::constant(1);
            let r = self.fresh(Kind::Rest, Some(count));
            self.set(q, Affine::var(r).add(&Affine::constant(low)));
        }
        Some(())
    }

    /// Numbers what is left open as reductions and drops guards that always hold.
    fn finish(self, rank: usize, olds: usize) -> Solved {
        let mut reds = vec![];
        let mut number: Vec<Var> = (0..self.kinds.len()).collect();
        for (v, number) in number.iter_mut().enumerate().skip(rank) {
            if self.open(v) {
                *number = rank + reds.len();
                reds.push(self.ranges[v].clone().expect("an open variable has a range"));
            }
        }
        let ranges: Vec<Size> = self.ranges[..rank].iter().flatten().chain(&reds).cloned().collect();
        let bounds = Bounds::new(self.dims, &ranges);
        let put = |a: &Affine| bounds.simplify(&self.known(a).substitute(&|v| Affine::var(number[v])));
        let mut guards: Vec<Guard> = vec![];
        for guard in &self.guards {
            let guard = Guard { expr: put(&guard.expr), relation: guard.relation };
            if !bounds.holds(&guard) && !guards.contains(&guard) {
                guards.push(guard);
            }
        }
        let old = (rank..rank + olds).map(|v| put(&Affine::var(v))).collect();
        Solved { reds, old, guards }
    }
}
