//! Programs of `models/bench` with other words: smaller ones to count, larger ones to see how something grows, sizes that are known.

use std::path::{Path, PathBuf};

/// A program of `models/bench` with other words in place of its own, written to a file.
pub fn variant(to: &Path, program: &str, words: &[(&str, &str)]) -> Result<PathBuf, String> {
    let from = format!("models/bench/{program}.nn");
    let text = std::fs::read_to_string(&from).map_err(|e| format!("cannot read {from}: {e}"))?;
    let text = replaced(&text, words).map_err(|word| format!("{from} has no `{word}` any more"))?;
    std::fs::write(to, text).map_err(|e| format!("cannot write {}: {e}", to.display()))?;
    Ok(to.to_path_buf())
}

/// The text with the first of each of these words replaced, or the word that it does not have.
fn replaced<'a>(text: &str, words: &[(&'a str, &str)]) -> Result<String, &'a str> {
    words.iter().try_fold(text.to_string(), |text, (from, to)| if text.contains(from) { Ok(text.replacen(from, to, 1)) } else { Err(*from) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_are_made_of_what_the_programs_say() {
        assert_eq!(
            replaced("dim B, T\nconst C = 1, D = 2", &[("dim B, T", "dim B"), ("const ", "const T = 16, ")]).unwrap(),
            "dim B\nconst T = 16, C = 1, D = 2"
        );
        assert_eq!(replaced("repeat(7, Layer)", &[("repeat(6,", "repeat(2,")]), Err("repeat(6,"));
        for (program, words) in [("gpt_small", &["repeat(6,"][..]), ("lstm", &["dim B, T", "const "])] {
            let text = std::fs::read_to_string(format!("../models/bench/{program}.nn")).unwrap();
            assert!(words.iter().all(|word| text.contains(word)), "{program}");
        }
    }
}
