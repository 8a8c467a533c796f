//! Test digits as characters, each with what the trained model says and what is right.

use nnc_runtime::artifact::Artifact;
use nnc_runtime::data::{Dataset, section};
use nnc_runtime::npy::read_npy;
use nnc_runtime::program::last_run as last_number;
use std::path::Path;

/// From no ink to full ink.
const INK: &[u8] = b" .:-=+*#%@";
/// Digits side by side.
const SHOWN: usize = 5;

/// The folder of the last run of `models/digits.nn`.
pub fn last_run() -> Option<String> {
    let runs = Path::new("runs/digits/fit");
    last_number(runs).map(|n| runs.join(n.to_string()).to_string_lossy().into_owned())
}

/// The first test digits, and the first that the model gets wrong. In `run`: the trained artifact, and what it infers for the part `test`.
///
/// # Errors
/// A file is missing or of another shape.
pub fn picture(run: &str) -> Result<String, String> {
    let text = |e: nnc_runtime::error::RunError| e.to_string();
    let model = Path::new(run).join("model.nnc");
    let artifact = Artifact::read(&model).map_err(text)?;
    let data = Dataset::load(section(&artifact.manifest.data, "digits").map_err(text)?, &artifact.folder(&model), &|_| true).map_err(text)?;
    let scores = read_npy(&Path::new(run).join("output.npy")).map_err(text)?;
    let rows = data.part("test").map_err(text)?;
    let (Some(image), Some(label), &[samples, classes]) = (data.find("image"), data.find("label"), &scores.shape[..]) else {
        return Err("the digits program has other columns or results than expected".into());
    };
    if samples as usize != rows.len() || data.column(image).shape != [64] {
        return Err("the results are not those of the part test".into());
    }
    let (mut right, mut wrong) = (vec![], vec![]);
    for (i, &row) in rows.iter().enumerate() {
        let (mut pixels, mut truth) = ([0u8; 4 * 64], [0u8; 8]);
        data.gather(image, &[row], &mut pixels);
        data.gather(label, &[row], &mut truth);
        let score = |class: i64| scores.get(i * classes as usize + class as usize).to_f64();
        let said = (0..classes).fold(0, |best, c| if score(c) > score(best) { c } else { best });
        let pixels = pixels.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let digit = Digit { pixels, said, truth: i64::from_le_bytes(truth) };
        if digit.said == digit.truth { right.push(digit) } else { wrong.push(digit) }
    }
    let mut out = format!("\n{} of {} test digits are recognised. The first of them:\n\n", right.len(), rows.len());
    out += &side_by_side(&right[..right.len().min(SHOWN)]);
    if !wrong.is_empty() {
        out += "\nand the first that are not:\n\n";
        out += &side_by_side(&wrong[..wrong.len().min(SHOWN)]);
    }
    Ok(out)
}

/// An image of 8 by 8 from 0 to 1, the prediction, the truth.
struct Digit {
    pixels: Vec<f32>,
    said: i64,
    truth: i64,
}

fn side_by_side(digits: &[Digit]) -> String {
    let mut out = String::new();
    for y in 0..8 {
        for digit in digits {
            // Two characters a pixel: they are about twice as high as wide.
            for &ink in &digit.pixels[8 * y..8 * (y + 1)] {
                let c = INK[((ink * 9.0).round() as usize).min(9)] as char;
                out.extend([c, c]);
            }
            out += "   ";
        }
        out.truncate(out.trim_end().len().max(out.rfind('\n').map_or(0, |n| n + 1)));
        out.push('\n');
    }
    for digit in digits {
        let words = if digit.said == digit.truth { format!("says {}", digit.said) } else { format!("says {}, is {}", digit.said, digit.truth) };
        out += &format!("{words:<19}");
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}
