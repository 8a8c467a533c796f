//! How rows are divided into parts. The algorithm is part of the language's meaning: the same file and seed give the same parts, in every version.
//!
//! Parts are cut off in order from the rows that are left, which are kept in ascending order. A part of fraction `f` of a file of `n` rows gets
//! `m = floor(f*n + 1/2)` rows.
//! - Without strata: the rows left are shuffled (Fisher and Yates from the last position down, [`Generator`] from the part's seed); the first `m` are the part.
//! - With strata: the rows left are grouped by class, classes ascending; of a group with `g` of the `r` rows left, `floor(m*g/r)` go to the part, and the
//!   rows then missing from `m` come one each from the groups with the largest remainders (equal ones: the smaller class first). Every group is shuffled
//!   in turn by one generator; its first rows go to the part.
//!
//! A part's rows are then sorted. What remains is `train`.

use crate::error::{Result, refuse, wrong};
use crate::random::Generator;
use crate::recipe::Part;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The rows of every part, `train` first. `classes` gives a column's whole numbers, row by row.
///
/// # Errors
/// A part that would be empty, or more rows than there are.
pub fn split(parts: &[Part], rows: usize, classes: &dyn Fn(&str) -> Result<Vec<i64>>) -> Result<Vec<(Arc<str>, Vec<u32>)>> {
    let mut left: Vec<u32> = (0..u32::try_from(rows).map_err(|_| refuse!("more than 2^32 rows are not supported"))?).collect();
    let mut made = vec![];
    for part in parts {
        let wanted = (part.fraction * rows as f64 + 0.5).floor();
        if wanted < 1.0 || wanted.is_nan() {
            return wrong!("the part {} would be empty: {}% of {rows} rows", part.name, part.fraction * 100.0);
        }
        if wanted > left.len() as f64 {
            return wrong!("the part {} needs {wanted} rows, but only {} are left", part.name, left.len());
        }
        let wanted = wanted as usize;
        let mut generator = Generator::new(part.seed);
        let mut chosen = match &part.stratify {
            None => {
                let mut order = left.clone();
                generator.shuffle(&mut order);
                order.truncate(wanted);
                order
            }
            Some(column) => stratified(&left, &classes(column)?, wanted, &mut generator),
        };
        chosen.sort_unstable();
        left.retain(|row| chosen.binary_search(row).is_err());
        made.push((part.name.clone(), chosen));
    }
    if left.is_empty() {
        return wrong!("the part train would be empty: other parts take all {rows} rows");
    }
    made.insert(0, ("train".into(), left));
    Ok(made)
}

fn stratified(left: &[u32], classes: &[i64], wanted: usize, generator: &mut Generator) -> Vec<u32> {
    let mut groups: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
    left.iter().for_each(|&row| groups.entry(classes[row as usize]).or_default().push(row));
    let share = |g: &Vec<u32>| (wanted as u128 * g.len() as u128 / left.len() as u128, wanted as u128 * g.len() as u128 % left.len() as u128);
    let mut counts: Vec<usize> = groups.values().map(|g| share(g).0 as usize).collect();
    let mut by_remainder: Vec<usize> = (0..counts.len()).collect();
    let remainders: Vec<u128> = groups.values().map(|g| share(g).1).collect();
    by_remainder.sort_by_key(|&i| (std::cmp::Reverse(remainders[i]), i));
    let missing = wanted - counts.iter().sum::<usize>();
    by_remainder.into_iter().take(missing).for_each(|i| counts[i] += 1);
    let mut chosen = vec![];
    for (group, count) in groups.values_mut().zip(counts) {
        generator.shuffle(group);
        chosen.extend(&group[..count]);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str, fraction: f64, stratify: bool) -> Part {
        Part { name: name.into(), fraction, seed: 42, stratify: stratify.then(|| "label".into()) }
    }

    #[test]
    fn parts_are_disjoint_stable_and_keep_shares() {
        let label = |_: &str| Ok((0..20).map(|i| (i % 4 == 0) as i64).collect());
        let parts = split(&[part("test", 0.2, true), part("valid", 0.1, false)], 20, &label).unwrap();
        let find = |name: &str| parts.iter().find(|(n, _)| &**n == name).unwrap().1.clone();
        assert_eq!(find("test").iter().filter(|&&r| r % 4 == 0).count(), 1);
        assert_eq!((find("test"), find("valid")), (vec![4, 7, 10, 14], vec![17, 19]));
        let mut all = [find("train"), find("test"), find("valid")].concat();
        all.sort_unstable();
        assert_eq!(all, (0..20).collect::<Vec<_>>());
        assert!(split(&[part("test", 0.01, false)], 20, &label).unwrap_err().message().contains("would be empty"));
        assert!(split(&[part("test", 0.7, false), part("valid", 0.4, false)], 20, &label).unwrap_err().message().contains("only 6 are left"));
        assert!(split(&[part("test", 1.0, false)], 20, &label).unwrap_err().message().contains("train"));
    }
}
