//! Which samples a step takes, and how many steps there are.

use crate::error::{Result, refuse, wrong};
use crate::recipe::{Length, Recipe};
use std::path::Path;

/// Where batches come from.
pub(crate) enum Order {
    /// Shuffled (or not) every epoch.
    Drawn,
    /// Given: rows of all steps, batch after batch; and steps an epoch, where the file has an axis of epochs.
    Given(Vec<u32>, Option<u64>),
}

/// How many steps there are.
#[derive(Clone, Copy)]
pub(crate) struct Steps {
    pub per_epoch: u64,
    pub steps: u64,
}

impl Steps {
    /// Epochs, the last one maybe not whole.
    pub fn epochs(&self) -> u64 {
        self.steps.div_ceil(self.per_epoch.max(1))
    }
}

/// The steps of `recipe` on `rows` samples.
///
/// # Errors
/// A batch larger than the part, or of nothing; no steps.
pub(crate) fn plan_length(recipe: &Recipe, rows: usize, order: &Order) -> Result<Steps> {
    let batch = usize::try_from(recipe.batch).ok().filter(|&b| b > 0);
    let Some(batch) = batch else { return wrong!("the batch must have at least one sample, not {}", recipe.batch) };
    if batch > rows {
        let s = if rows == 1 { "" } else { "s" };
        return wrong!("the batch of {batch} is larger than the part train, which has {rows} sample{s}");
    }
    let per_epoch = match order {
        Order::Given(_, Some(n)) => *n,
        Order::Given(_, None) | Order::Drawn if recipe.drop_last => (rows / batch) as u64,
        Order::Given(_, None) | Order::Drawn => rows.div_ceil(batch) as u64,
    };
    let steps = match (order, recipe.length) {
        (Order::Given(at, _), _) => (at.len() / batch) as u64,
        (Order::Drawn, Length::Epochs(n)) => u64::try_from(n).ok().and_then(|n| n.checked_mul(per_epoch)).unwrap_or(0),
        (Order::Drawn, Length::Steps(n)) => u64::try_from(n).unwrap_or(0),
    };
    if steps == 0 { wrong!("the recipe {} has no steps to do", recipe.name) } else { Ok(Steps { per_epoch, steps }) }
}

/// The only array of a file, [steps, batch] or [epochs, steps, batch]; its last axis is the recipe's batch from now on.
///
/// # Errors
/// Not readable, or something else than one array of whole numbers.
pub(crate) fn given_batches(path: &Path, recipe: &mut Recipe) -> Result<Order> {
    let name = path.display();
    let array = if path.extension().is_some_and(|e| e == "npy") {
        crate::npy::read_npy(path)?
    } else {
        let mut arrays = crate::npy::read_npz(path)?;
        match (arrays.pop_first(), arrays.len()) {
            (Some((_, array)), 0) => array,
            (_, more) => return wrong!("{name} must hold one array of batches, not {}", more + 1),
        }
    };
    if array.dtype != crate::dtype::DType::I64 || array.shape.len() < 2 || array.is_empty() {
        return wrong!("{name} holds {}{:?}, not whole numbers [steps, batch]", array.dtype, array.shape);
    }
    recipe.batch = array.shape.last().copied().unwrap_or(1);
    let row = |&i: &i64| u32::try_from(i).map_err(|_| refuse!("{name} names sample {i}"));
    let per_epoch = array.shape.len().checked_sub(3).map(|_| array.shape[array.shape.len() - 2] as u64);
    Ok(Order::Given(array.as_i64().iter().map(row).collect::<Result<_>>()?, per_epoch))
}
