//! What may have been meant by a word that means nothing.

/// The name among `known` that is nearest to `name`, if one is near enough to be what was meant.
pub fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = name.chars().count();
    let limit = (length / 3).max(1);
    // Nobody mistypes longer names by a letter, and the work grows with the product of the lengths.
    let near = |k: &&str| length <= 100 && k.chars().count().abs_diff(length) <= limit;
    known.into_iter().filter(near).map(|k| (edit_distance(name, k), k)).filter(|(d, _)| *d <= limit).min().map(|(_, k)| k)
}

/// `; it has A, B: did you mean B?`
pub fn hint(name: &str, known: &[&str]) -> String {
    // Any letter is near to any other.
    let near = if name.chars().count() > 1 { did_you_mean(name, known.iter().copied()) } else { None };
    let meant = near.map_or(String::new(), |near| format!(": did you mean {near}?"));
    format!("; it has {}{meant}", if known.is_empty() { "none".into() } else { known.join(", ") })
}

/// Insertions, deletions, substitutions and swaps of neighbours that lead from `a` to `b` (optimal string alignment).
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut d = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for (i, row) in d.iter_mut().enumerate() {
        row[0] = i;
    }
    d[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            d[i][j] = (d[i - 1][j] + 1).min(d[i][j - 1] + 1).min(d[i - 1][j - 1] + cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                d[i][j] = d[i][j].min(d[i - 2][j - 2] + 1);
            }
        }
    }
    d[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_meant_and_far_ones_are_listed() {
        let known = ["batch", "epochs", "optimizer.lr"];
        assert_eq!(hint("bacth", &known), "; it has batch, epochs, optimizer.lr: did you mean batch?");
        assert_eq!(hint("shuffle", &known), "; it has batch, epochs, optimizer.lr");
        assert_eq!(hint("x", &[]), "; it has none");
    }
}
