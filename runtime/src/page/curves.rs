//! Curves as SVG.

use super::escape;
use crate::chart::range;
use std::fmt::Write;

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 240.0;
/// Room for the axes' numbers.
const LEFT: f64 = 52.0;
const BELOW: f64 = 34.0;
const COLOURS: usize = 5;
/// More points are no longer told apart.
const MOST: usize = 1500;
/// Up to so many points show their value under the pointer.
const MARKED: usize = 400;

/// A figure of lines over `axis`, with a mark at `best`.
pub(super) fn figure(title: &str, axis: &str, lines: &[(&str, &[(f64, f64)])], best: Option<f64>) -> String {
    let points = || lines.iter().flat_map(|(_, points)| points.iter());
    let (Some((left, right)), Some((low, high))) = (range(points().map(|p| p.0)), range(points().map(|p| p.1))) else {
        return format!("<figure><figcaption>{}</figcaption><p class=\"soft\">no finite value</p></figure>\n", escape(title));
    };
    let (rows, columns) = (ticks(low, high), ticks(left, right));
    let (low, high) = (low.min(rows[0]), high.max(rows[rows.len() - 1]));
    let x = |v: f64| LEFT + (v - left) / (right - left).max(f64::MIN_POSITIVE) * (WIDTH - LEFT - 8.0);
    let y = |v: f64| HEIGHT - BELOW - (v - low) / (high - low).max(f64::MIN_POSITIVE) * (HEIGHT - BELOW - 10.0);
    let mut svg = format!("<figure><figcaption>{}</figcaption>\n", escape(title));
    for (k, (name, _)) in lines.iter().enumerate() {
        let _ = write!(svg, "<span class=\"key\"><i style=\"background: var(--c{})\"></i>{}</span>", k % COLOURS, escape(name));
    }
    let _ = writeln!(svg, "\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">", escape(title));
    for v in &rows {
        let at = y(*v);
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 6.0,
            at + 4.0,
            number(*v, &rows)
        );
    }
    for v in columns.iter().filter(|v| (left..=right).contains(*v)) {
        let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>", x(*v), HEIGHT - BELOW + 15.0, number(*v, &columns));
    }
    let _ = writeln!(svg, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{axis}</text>", WIDTH - 8.0, HEIGHT - 4.0);
    if let Some(best) = best {
        let at = x(best);
        let _ = writeln!(
            svg,
            "<line class=\"grid\" stroke-dasharray=\"4 3\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"10\" y2=\"{}\"/><text x=\"{:.1}\" y=\"{}\">best</text>",
            HEIGHT - BELOW,
            (at + 4.0).min(WIDTH - 28.0),
            HEIGHT - BELOW - 5.0
        );
    }
    for (k, (name, points)) in lines.iter().enumerate() {
        let points = thin(points);
        // What is not finite leaves a gap.
        for run in points.split(|p| !p.1.is_finite()).filter(|run| !run.is_empty()) {
            let path: Vec<String> = run.iter().map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1))).collect();
            let _ = writeln!(svg, "<polyline fill=\"none\" stroke=\"var(--c{})\" stroke-width=\"1.8\" points=\"{}\"/>", k % COLOURS, path.join(" "));
        }
        for p in points.iter().filter(|p| p.1.is_finite() && points.len() <= MARKED) {
            let radius = if points.len() <= 40 { 2.2 } else { 1.2 };
            let _ = writeln!(
                svg,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"{radius}\" fill=\"var(--c{})\"><title>{} {axis} {}: {:.6}</title></circle>",
                x(p.0),
                y(p.1),
                k % COLOURS,
                escape(name),
                p.0,
                p.1
            );
        }
    }
    svg + "</svg></figure>\n"
}

/// At most [`MOST`] of the points, the last among them.
fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let count = points.len().min(MOST);
    (1..=count).map(|k| points[points.len() * k / count - 1]).collect()
}

/// Round numbers from at most `low` to at least `high`: some four to eight.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let span = if high > low { high - low } else { low.abs().max(1.0) * 0.1 };
    let rough = span / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= rough * 0.999).unwrap_or(power * 10.0);
    let (first, last) = ((low / step).floor() as i64, (high / step).ceil() as i64);
    (first..=last.max(first + 1)).map(|k| k as f64 * step).collect()
}

/// With as many digits as tell the ticks apart.
fn number(v: f64, ticks: &[f64]) -> String {
    let step = ticks[1] - ticks[0];
    match step {
        s if !(1e-6..1e7).contains(&s) => format!("{v:.1e}"),
        s if s >= 1.0 => format!("{v:.0}"),
        s => format!("{v:.digits$}", digits = (-s.log10()).ceil() as usize),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_cover_the_range() {
        assert_eq!(ticks(0.0, 1.0).iter().map(|v| number(*v, &ticks(0.0, 1.0))).collect::<Vec<_>>(), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(ticks(1.0, 30.0), [0.0, 10.0, 20.0, 30.0]);
        for (low, high) in [(2.0, 2.0), (-3.0, 1e-3), (0.97, 0.98), (0.0, 0.0), (1e9, 2e9)] {
            let ticks = ticks(low, high);
            assert!((2..=9).contains(&ticks.len()) && ticks[0] <= low && ticks[ticks.len() - 1] >= high, "{low} {high} {ticks:?}");
        }
    }

    #[test]
    fn gaps_stand_for_what_is_not_finite() {
        let points = [(1.0, 1.0), (2.0, f64::NAN), (3.0, 0.5), (4.0, 0.25)];
        let svg = figure("a<b", "epoch", &[("train", &points)], Some(4.0));
        assert_eq!((svg.matches("<polyline").count(), svg.matches("<circle").count()), (2, 3));
        assert!(svg.contains("a&lt;b") && !svg.contains("NaN") && svg.contains(">best<"));
        assert!(figure("loss", "epoch", &[("train", &[(1.0, f64::NAN)])], None).contains("no finite value"));
        let many: Vec<(f64, f64)> = (0..100_000).map(|i| (i as f64, 1.0)).collect();
        assert_eq!((thin(&many).len(), thin(&many)[MOST - 1].0, thin(&points[..1]).len()), (MOST, 99_999.0, 1));
    }
}
