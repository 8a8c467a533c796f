//! Loads whose address is a linear form in the variables: what can be read in place, copied by rows, or turned.

use crate::ir::{Affine, IndexAtom, Size};
use crate::kernel::lower::product;
use crate::kernel::{Index, Instr, Kernel};

/// A load without a choice: its address is `constant + sum(coefficient * variable)` elements.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// The buffer.
    pub param: usize,
    /// Elements before the first.
    pub constant: Size,
    /// Of every variable.
    pub steps: Vec<Size>,
}

/// A group of variables read as one: the last one's step, and how many points all have.
pub struct Run {
    /// Elements from one point to the next.
    pub step: Size,
    /// Points.
    pub extent: Size,
}

/// An index that may lie outside of its axis, and the axis' size.
pub type Check = (Affine, Size);

/// The instruction as a linear form in `vars` variables, where it is one.
pub fn linear(kernel: &Kernel, instr: &Instr, vars: usize) -> Option<Linear> {
    let Instr::Load { param, index, otherwise: None } = instr else { return None };
    address(kernel, *param, index, vars)
}

/// The same for a load that may be zero outside of its buffer, with the indices that may lead there; `ranges` are those of the variables.
pub fn window(kernel: &Kernel, instr: &Instr, ranges: &[Size]) -> Option<(Linear, Vec<Check>)> {
    let Instr::Load { param, index, otherwise } = instr else { return None };
    let form = address(kernel, *param, index, ranges.len())?;
    let Some(other) = otherwise else { return Some((form, vec![])) };
    let axes = index.iter().zip(&kernel.params[*param].shape).filter_map(|(i, size)| match i {
        Index::Affine(a) if a.as_var().is_none_or(|v| ranges[v] != *size) => Some((a.clone(), size.clone())),
        Index::Affine(_) | Index::Value(_) => None,
    });
    (other.bits() == 0).then(|| (form, axes.collect()))
}

/// The address of an element of a parameter as a linear form.
pub fn address(kernel: &Kernel, param: usize, index: &[Index], vars: usize) -> Option<Linear> {
    let shape = &kernel.params[param].shape;
    let mut form = Linear { param, constant: Size::default(), steps: vec![Size::default(); vars] };
    for (axis, index) in index.iter().enumerate() {
        let Index::Affine(a) = index else { return None };
        let stride = product(&shape[axis + 1..]);
        form.constant = form.constant.checked_add(&a.constant.checked_mul(&stride)?)?;
        for (atom, c) in &a.terms {
            let IndexAtom::Var(v) = atom else { return None };
            form.steps[*v] = form.steps[*v].checked_add(&c.checked_mul(&stride)?)?;
        }
    }
    Some(form)
}

impl Linear {
    /// The variables, in order, as the fewest runs; the last run is the innermost.
    pub fn runs(&self, vars: &[(usize, Size)]) -> Vec<Run> {
        let mut runs: Vec<Run> = vec![];
        for (v, size) in vars.iter().rev().filter(|(_, size)| size.as_const() != Some(1)) {
            let step = &self.steps[*v];
            match runs.last_mut() {
                Some(run) if run.step.checked_mul(&run.extent).as_ref() == Some(step) => run.extent = product(&[run.extent.clone(), size.clone()]),
                _ => runs.push(Run { step: step.clone(), extent: size.clone() }),
            }
        }
        runs.reverse();
        runs
    }
}
