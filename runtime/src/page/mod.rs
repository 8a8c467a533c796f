//! `report.html`: a run on one page that needs nothing else, no network, no script; it follows the reader's choice of light or dark.
//!
//! In: what the run's folder and the program say. Out: the text of the page: key figures, curves, what is taken for what, the model as it is executed, work
//! by source line, the settings, and the program where its file is still there.

mod curves;
mod graph;

pub use graph::launches;

use crate::chart::Curves;
use crate::checkpoint::Position;
use crate::confusion::Confusion;
use crate::exec::Prepared;
use crate::manifest::Role;
use crate::program::Program;
use crate::recipe::Recipe;
use crate::report::{figure, thousands, took};
use crate::train::Parts;
use serde_json::Value;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

/// Pictures of more boxes show nothing on a page.
const MOST: usize = 600;

/// What the page is made of.
pub struct Page<'a> {
    /// The program.
    pub program: &'a Program<'a>,
    /// As it ran.
    pub recipe: &'a Recipe,
    /// What is in `run.json`.
    pub lock: &'a Value,
    /// From the log.
    pub curves: &'a Curves,
    /// How far the run is.
    pub position: &'a Position,
    /// How many steps there are.
    pub steps: u64,
    /// The best weights' metrics, once the run is over.
    pub parts: &'a Parts,
    /// The best weights' mistakes.
    pub confusion: Option<&'a Confusion>,
    /// A training step on a full batch.
    pub run: Option<&'a Prepared>,
}

const STYLE: &str = "
:root { color-scheme: light dark; --back: #fff; --text: #1b1f24; --soft: #667; --line: #d8dce2; --box: #f5f6f8; --heat: 37 99 235;
  --c0: #2563eb; --c1: #d97706; --c2: #059669; --c3: #9333ea; --c4: #dc2626; }
@media (prefers-color-scheme: dark) { :root { --back: #14171c; --text: #e3e6ea; --soft: #98a0ab; --line: #333a44; --box: #1d2128; --heat: 96 165 250;
  --c0: #60a5fa; --c1: #fbbf24; --c2: #34d399; --c3: #c084fc; --c4: #f87171; } }
body { background: var(--back); color: var(--text); font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; } p.soft, .soft { color: var(--soft); }
code, pre, td.code { font-family: ui-monospace, monospace; font-size: .85rem; }
pre { background: var(--box); padding: .8rem; overflow-x: auto; border-radius: 6px; }
.figures { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1rem 0; }
.figures div { background: var(--box); border-radius: 6px; padding: .5rem .9rem; min-width: 6rem; }
.figures b { display: block; font-size: 1.2rem; font-weight: 600; } .figures span { color: var(--soft); font-size: .85rem; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(21rem, 1fr)); gap: 1rem; }
figure { margin: 0; } figcaption { font-weight: 600; } svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; } svg .grid { stroke: var(--line); }
.key { display: inline-block; margin-right: .9rem; font-size: .85rem; color: var(--soft); } .key i { display: inline-block; width: .9rem; height: .2rem;
  margin-right: .3rem; vertical-align: middle; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .18rem .6rem; text-align: right; border-bottom: 1px solid var(--line); } th { font-weight: 600; color: var(--soft); }
td:first-child, th:first-child, .left { text-align: left !important; } .confusion td { border: 1px solid var(--line); text-align: center; min-width: 1.6rem; }
details { margin: .6rem 0; } summary { cursor: pointer; }
";

/// Text as HTML has it.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// `12.3 M`: three figures and a unit of thousands.
fn short(n: f64) -> String {
    let (mut n, mut unit) = (n, 0);
    while n >= 1000.0 && unit < 5 {
        (n, unit) = (n / 1000.0, unit + 1);
    }
    let digits = if unit == 0 || n >= 100.0 { 0 } else { 1 + usize::from(n < 10.0) };
    format!("{n:.digits$}{}", ["", " k", " M", " G", " T", " P"][unit])
}

impl Page<'_> {
    /// The page.
    pub fn html(&self) -> String {
        let (name, recipe) = (escape(self.program.name()), escape(&self.recipe.name));
        let mut page = format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
             <title>{name}: {recipe}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{name}: {recipe}</h1>\n"
        );
        let _ = writeln!(
            page,
            "<p class=\"soft\">{}, compiled by nnc {}</p>",
            escape(&self.program.manifest.source),
            escape(&self.program.manifest.compiler)
        );
        self.figures(&mut page);
        self.curves(&mut page);
        self.confusion(&mut page);
        self.models(&mut page);
        self.work(&mut page);
        self.settings(&mut page);
        page + "</body>\n</html>\n"
    }

    fn figures(&self, page: &mut String) {
        let p = self.position;
        let over = p.stopped || p.step >= self.steps;
        let mut figures: Vec<(String, String)> = vec![];
        for (part, values) in self.parts {
            let metrics = self.recipe.metrics.iter().zip(values);
            figures.extend(metrics.map(|(m, v)| (figure(*v), format!("{part} {}", m.name))));
        }
        figures.push((thousands(p.epoch), if p.epoch == 1 { "epoch".into() } else { "epochs".into() }));
        figures.push((thousands(p.step), if over { "steps".into() } else { format!("steps of {}", thousands(self.steps)) }));
        figures.push((took(Duration::try_from_secs_f64(self.curves.seconds).unwrap_or_default()), "of epochs".into()));
        if p.best_epoch > 0 {
            figures.push((p.best_epoch.to_string(), "best epoch".into()));
        }
        let of = |role: Role| self.program.manifest.tensors.iter().filter(move |t| t.role == role);
        let parameters: i64 = of(Role::Parameter).map(|t| t.shape.iter().product::<i64>()).sum();
        figures.push((short(parameters as f64), "parameters".into()));
        if !over {
            page.push_str("<p><b>The run was interrupted</b> and can be resumed.</p>\n");
        } else if p.stopped {
            page.push_str("<p class=\"soft\">The run was stopped early: what it watches no longer improved.</p>\n");
        }
        page.push_str("<div class=\"figures\">");
        figures.iter().for_each(|(figure, what)| _ = write!(page, "<div><b>{}</b><span>{}</span></div>", escape(figure), escape(what)));
        page.push_str("</div>\n");
    }

    fn curves(&self, page: &mut String) {
        page.push_str("<h2>Curves</h2>\n<div class=\"curves\">\n");
        let best = Some(self.position.best_epoch as f64).filter(|&e| e > 0.0 && self.recipe.early_stop.is_some());
        for (metric, parts) in &self.curves.metrics {
            let lines: Vec<(&str, &[(f64, f64)])> = parts.iter().map(|c| (c.part.as_str(), c.points.as_slice())).collect();
            page.push_str(&curves::figure(metric, "epoch", &lines, best));
        }
        if !self.curves.steps.is_empty() {
            page.push_str(&curves::figure("loss of steps", "step", &[("train", &self.curves.steps)], None));
        }
        page.push_str("</div>\n");
    }

    fn confusion(&self, page: &mut String) {
        let Some(confusion) = self.confusion else { return };
        let n = confusion.names.len();
        let _ = writeln!(page, "<h2>What is taken for what, on {}</h2>", escape(&confusion.part));
        page.push_str("<p class=\"soft\">A row is a label, a column what the best weights took it for.</p>\n");
        if n <= 60 {
            page.push_str("<div class=\"wide\"><table class=\"confusion\"><tr><th></th>");
            confusion.names.iter().for_each(|name| _ = write!(page, "<th>{}</th>", escape(name)));
            page.push_str("<th>recall</th></tr>\n");
            let percent = |share: f64| if share.is_nan() { "–".to_string() } else { format!("{:.1} %", 100.0 * share) };
            for (label, name) in confusion.names.iter().enumerate() {
                let _ = write!(page, "<tr><th>{}</th>", escape(name));
                let all: u64 = (0..n).map(|k| confusion.count(label, k)).sum();
                for prediction in 0..n {
                    let count = confusion.count(label, prediction);
                    let heat = count as f64 / all.max(1) as f64;
                    let text = if count == 0 { String::new() } else { count.to_string() };
                    let _ = write!(
                        page,
                        "<td title=\"{} taken for {}\" style=\"background: rgb(var(--heat) / {:.2})\">{text}</td>",
                        escape(name),
                        escape(&confusion.names[prediction]),
                        0.75 * heat.sqrt()
                    );
                }
                let _ = writeln!(page, "<td>{}</td></tr>", percent(confusion.shares(label).0));
            }
            page.push_str("<tr><th>precision</th>");
            (0..n).for_each(|class| _ = write!(page, "<td>{}</td>", percent(confusion.shares(class).1)));
            page.push_str("<td></td></tr></table></div>\n");
        }
        let worst = confusion.mistakes();
        if !worst.is_empty() {
            let words = |(label, prediction, count): &(usize, usize, u64)| {
                format!("{} for {}: {count}", escape(&confusion.names[*label]), escape(&confusion.names[*prediction]))
            };
            let _ =
                writeln!(page, "<p class=\"soft\">Most frequent mistakes: {}</p>", worst.iter().take(8).map(words).collect::<Vec<_>>().join(", "));
        }
    }

    fn models(&self, page: &mut String) {
        for entry in self.program.manifest.entries.iter().filter(|e| e.name.starts_with("infer:")) {
            let name = entry.name.trim_start_matches("infer:");
            let picture = launches(self.program.manifest, &[&entry.name]);
            let figure = match picture.nodes.len() {
                0..=MOST => format!("<div class=\"wide\">{}</div>", picture.figure()),
                n => format!(
                    "<p class=\"soft\">A picture of {n} boxes would show nothing: <code>nnc show --stage kernels --format svg</code> draws it.</p>"
                ),
            };
            let _ = writeln!(page, "<h2>The model {}, as it is executed</h2>\n{figure}", escape(name));
        }
    }

    /// What a training step does, line by line.
    fn work(&self, page: &mut String) {
        let Some(run) = self.run else { return };
        let lines = run.by_line();
        let (flops, bytes): (f64, f64) = (lines.iter().map(|l| l.flops).sum(), lines.iter().map(|l| l.bytes).sum());
        let stored: i64 = self.program.manifest.tensors.iter().map(|t| t.shape.iter().product::<i64>() * t.dtype.bytes() as i64).sum();
        let _ = writeln!(
            page,
            "<h2>A training step by source line</h2>\n<p class=\"soft\">A batch of {}: {}FLOPs, {}B moved; {}B of memory for its values, {}B of parameters and \
             states.</p>",
            self.recipe.batch,
            short(flops) + if flops < 1000.0 { " " } else { "" },
            short(bytes),
            short(run.arena_bytes() as f64),
            short(stored as f64)
        );
        page.push_str("<div class=\"wide\"><table><tr><th>line</th><th>launches</th><th>FLOPs</th><th>share</th><th>bytes moved</th><th class=\"left\">source</th></tr>\n");
        let source = self.source();
        for line in lines {
            let text = line.line.strip_prefix(&format!("{}:", self.program.manifest.source)).and_then(|n| n.split(',').next()?.parse::<usize>().ok());
            let text = text.and_then(|n| source.as_deref()?.lines().nth(n.checked_sub(1)?)).unwrap_or("").trim();
            let _ = writeln!(
                page,
                "<tr><td>{}</td><td>{}</td><td>{}</td><td>{:.1} %</td><td>{}</td><td class=\"code left\">{}</td></tr>",
                escape(if line.line.is_empty() { "copies" } else { &line.line }),
                line.launches,
                short(line.flops),
                100.0 * line.flops / flops.max(1.0),
                short(line.bytes),
                escape(text)
            );
        }
        page.push_str("</table></div>\n");
    }

    fn settings(&self, page: &mut String) {
        let recipe = self.recipe;
        let mut rows: Vec<(String, String)> = vec![
            ("optimizer".into(), recipe.optimizer.to_string()),
            ("batch".into(), recipe.batch.to_string()),
            ("seed".into(), recipe.seed.to_string()),
            ("data".into(), recipe.data.to_string()),
        ];
        rows.extend(recipe.scalars.iter().map(|(name, value)| (name.to_string(), value.to_string())));
        if let Some(stop) = &recipe.early_stop {
            rows.push(("early stop".into(), format!("{}.{}, patience {}", stop.part, stop.metric, stop.patience)));
        }
        rows.extend(self.position.dims.iter().map(|(name, n)| (format!("dim {name}"), n.to_string())));
        page.push_str("<h2>Settings</h2>\n<table>");
        rows.iter().for_each(|(name, value)| _ = writeln!(page, "<tr><td>{}</td><td class=\"left\">{}</td></tr>", escape(name), escape(value)));
        page.push_str("</table>\n");
        let _ = writeln!(page, "<details><summary>run.json</summary><pre>{}</pre></details>", escape(&format!("{:#}", self.lock)));
        if let Some(source) = self.source() {
            let _ = writeln!(page, "<details open><summary>The program</summary><pre>{}</pre></details>", escape(&source));
        }
    }

    /// The program's text, where its file still is.
    fn source(&self) -> Option<String> {
        let file = Path::new(&self.program.manifest.source).file_name()?;
        std::fs::read_to_string(self.program.folder.join(file)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_numbers_are_fit_for_a_page() {
        assert_eq!(escape("a < b & \"c\""), "a &lt; b &amp; &quot;c&quot;");
        assert_eq!([0.0, 999.0, 1234.0, 56_700.0, 4.5e8].map(short), ["0", "999", "1.23 k", "56.7 k", "450 M"]);
    }
}
