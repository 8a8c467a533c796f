//! The suite as a picture: for every workload, how nnc's time compares with the best peer's.

use super::Line;

const WIDTH: f64 = 900.0;
const LEFT: f64 = 220.0;
const ROW: f64 = 26.0;
const TOP: f64 = 46.0;

/// Bars on a logarithmic axis from a tenth to a hundred times the best peer's time; left of the middle line nnc is faster.
pub fn draw(lines: &[Line]) -> String {
    let (low, high) = (0.1f64.log10(), 100f64.log10());
    let x = |ratio: f64| LEFT + (ratio.log10().clamp(low, high) - low) / (high - low) * (WIDTH - LEFT - 140.0);
    let height = TOP + ROW * lines.len() as f64 + 20.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"18\">time of a step, nnc divided by the best peer (median of paired rounds)</text>\n"
    );
    for mark in [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0] {
        let (at, colour) = (x(mark), if mark == 1.0 { "#333" } else { "#ddd" });
        svg += &format!("<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{:.1}\" stroke=\"{colour}\"/>\n", height - 16.0);
        svg += &format!("<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#666\">{mark}</text>\n", TOP - 8.0);
    }
    for (n, line) in lines.iter().enumerate() {
        let y = TOP + ROW * n as f64;
        svg += &format!("<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n", LEFT - 10.0, y + 17.0, line.name);
        let text = match (line.ratio, &line.peer) {
            (Some(ratio), Some((peer, ..))) => {
                let (from, to) = (x(1.0).min(x(ratio)), x(1.0).max(x(ratio)));
                let colour = if ratio <= 1.0 { "#2a7" } else { "#c63" };
                svg +=
                    &format!("<rect x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"16\" fill=\"{colour}\"/>\n", y + 4.0, (to - from).max(1.0));
                format!("{ratio:.2} of {peer}")
            }
            _ => format!("{:.3} ms", line.nnc.1),
        };
        svg += &format!("<text x=\"{:.1}\" y=\"{:.1}\" fill=\"#333\">{text}</text>\n", WIDTH - 132.0, y + 17.0);
    }
    svg + "</svg>\n"
}
