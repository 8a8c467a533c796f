//! `--set path=value` on a compiled program: what a recipe lets change without compiling again.

use crate::error::{Result, RunError};
use crate::recipe::{Length, Recipe};
use crate::words::hint;

/// Changes `recipe`. A path may start with the recipe's name or `train`: `train.batch`, `fit.epochs`, `optimizer.lr`.
///
/// # Errors
/// An unknown path or a value of the wrong kind.
pub fn apply(recipe: &mut Recipe, set: &[(String, String)]) -> Result<()> {
    for (path, value) in set {
        let name = recipe.name.to_string();
        let short = path.strip_prefix("train.").or_else(|| path.strip_prefix(&name).and_then(|p| p.strip_prefix('.'))).unwrap_or(path);
        let usage = |what: &str| RunError::Usage(format!("--set {path}={value}: the value must be {what}"));
        let whole = || value.replace('_', "").parse::<i64>().ok().filter(|&n| n >= 0).ok_or_else(|| usage("a whole number"));
        let real = || value.replace('_', "").parse::<f64>().ok().filter(|x| x.is_finite()).ok_or_else(|| usage("a number"));
        let truth = || value.parse::<bool>().map_err(|_| usage("true or false"));
        if let Some((_, scalar)) = recipe.scalars.iter_mut().find(|(n, _)| &**n == short) {
            *scalar = real()?;
            continue;
        }
        match (short, &mut recipe.early_stop) {
            ("batch", _) => recipe.batch = whole()?,
            ("epochs", _) => recipe.length = Length::Epochs(whole()?),
            ("steps", _) => recipe.length = Length::Steps(whole()?),
            ("seed", _) => recipe.seed = whole()? as u64,
            ("shuffle", _) => recipe.shuffle = truth()?,
            ("drop_last", _) => recipe.drop_last = truth()?,
            ("early_stop.patience", Some(stop)) => stop.patience = whole()?,
            ("early_stop.min_delta", Some(stop)) => stop.min_delta = real()?,
            _ => {
                let mut known: Vec<String> = ["batch", "epochs", "steps", "seed", "shuffle", "drop_last"].map(String::from).into();
                known.extend(recipe.early_stop.iter().flat_map(|_| ["early_stop.patience".to_string(), "early_stop.min_delta".to_string()]));
                known.extend(recipe.scalars.iter().map(|(n, _)| n.to_string()));
                let known: Vec<&str> = known.iter().map(String::as_str).collect();
                return Err(RunError::Usage(format!("--set {path}: the recipe {name} has no such setting{}", hint(short, &known))));
            }
        }
    }
    Ok(())
}
