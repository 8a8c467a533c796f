//! Where the time of a run goes: every kernel at its source line, against what one core can do.
//!
//! In: what [`crate::meter`] has recorded of each prepared entry. Out: a table, JSON, and a trace that `chrome://tracing` and Perfetto show. All rates are a
//! thread's: a kernel that runs on two threads for a millisecond has taken two. On a GPU they are the whole card's, by its own clock, and there is no peak
//! to hold them against.

use crate::cuda::Card;
use crate::peak::Peak;
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

/// Events that a thread keeps for the trace, for each prepared entry.
pub const EVENTS: usize = 20_000;

/// A kernel at a line of an entry, all launches together.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The kernel's symbol, `copy`, `check` or `loop`.
    pub what: String,
    /// The source line.
    pub line: String,
    /// How often.
    pub launches: u64,
    /// Of all threads together.
    pub nanoseconds: f64,
    /// All buffers that it touches, in all launches.
    pub bytes: f64,
    /// In all launches.
    pub flops: f64,
}

/// An entry, all its runs together.
#[derive(Clone, Debug, PartialEq)]
pub struct Account {
    /// Its name.
    pub entry: Arc<str>,
    /// How often it ran.
    pub runs: u64,
    /// How many of these were timed; the others are taken for like them.
    pub timed: u64,
    /// From begin to end.
    pub nanoseconds: f64,
    /// Phases that were opened to other threads, as the work is cut in the end.
    pub phases: f64,
    /// How often the pool's threads were called.
    pub wakes: u64,
    /// What it did.
    pub rows: Vec<Row>,
}

impl Account {
    /// Launches of kernels, floating-point operations and bytes moved, of all runs.
    fn work(&self) -> [f64; 3] {
        let kernels = self.rows.iter().filter(|r| !matches!(r.what.as_str(), "copy" | "check" | "loop"));
        let sum = |of: &dyn Fn(&Row) -> f64| self.rows.iter().map(of).sum::<f64>();
        [kernels.map(|r| r.launches as f64).sum(), sum(&|r| r.flops), sum(&|r| r.bytes)]
    }
}

/// What a command has run.
#[derive(Debug, Default)]
pub struct Profile {
    /// Where the trace goes, if anywhere.
    pub trace: Option<PathBuf>,
    /// The GPU that computes, if one does.
    pub card: Option<&'static Card>,
    /// The clock when it began.
    pub start: u64,
    accounts: Vec<Account>,
    /// What, thread, begin and length in nanoseconds.
    events: Vec<(String, usize, f64, f64)>,
}

impl Profile {
    /// A profile that begins now, of runs on the GPU if there is a card.
    pub fn new(trace: Option<PathBuf>, card: Option<&'static Card>) -> Profile {
        Profile { trace, card, start: crate::meter::ticks(), ..Profile::default() }
    }

    /// Adds what a prepared entry has done to what others of the same name did.
    pub fn add(&mut self, account: Account, events: Vec<(String, usize, f64, f64)>) {
        self.events.extend(events);
        let Some(known) = self.accounts.iter_mut().find(|a| a.entry == account.entry) else { return self.accounts.push(account) };
        (known.runs, known.timed) = (known.runs + account.runs, known.timed + account.timed);
        known.nanoseconds += account.nanoseconds;
        (known.phases, known.wakes) = (known.phases + account.phases, known.wakes + account.wakes);
        known.rows.extend(account.rows);
    }

    /// The accounts, the longest first, each with one row for each kernel and line, the longest first.
    pub fn accounts(&self) -> Vec<Account> {
        let mut accounts = self.accounts.clone();
        for account in &mut accounts {
            let mut rows: Vec<Row> = vec![];
            for row in account.rows.drain(..) {
                match rows.iter_mut().find(|r| r.what == row.what && r.line == row.line) {
                    Some(r) => {
                        r.launches += row.launches;
                        (r.nanoseconds, r.bytes, r.flops) = (r.nanoseconds + row.nanoseconds, r.bytes + row.bytes, r.flops + row.flops);
                    }
                    None => rows.push(row),
                }
            }
            rows.sort_by(|a, b| b.nanoseconds.total_cmp(&a.nanoseconds));
            account.rows = rows;
        }
        accounts.sort_by(|a, b| b.nanoseconds.total_cmp(&a.nanoseconds));
        accounts
    }

    /// The table; a GPU has no peak.
    pub fn text(&self, peak: Option<&Peak>) -> String {
        let mut text = match (peak, self.card) {
            (Some(peak), _) => format!(
                "one core reaches {:.1} GFLOP/s in registers and reads memory at {:.1} GB/s; rates below are a thread's\n",
                peak.gflops, peak.gigabytes
            ),
            (None, card) => format!("one launch after the other on {}\n", card.map_or("a GPU".into(), Card::to_string)),
        };
        for account in self.accounts() {
            let runs = account.runs.max(1) as f64;
            let total: f64 = account.rows.iter().map(|r| r.nanoseconds).sum();
            let s = if account.runs == 1 { "" } else { "s" };
            let sample = if account.timed < account.runs { format!(", {} of them timed", account.timed) } else { String::new() };
            let _ = writeln!(text, "\n{}: {} run{s}, {} each{sample}", account.entry, account.runs, time(account.nanoseconds / runs));
            let [launches, flops, bytes] = account.work().map(|n| n / runs);
            let (phases, wakes) = (account.phases / runs, account.wakes as f64 / runs);
            let _ = write!(text, "a run: {launches:.0} launches, {flops:.0} FLOPs, {bytes:.0} bytes moved");
            let threads = format!(", {phases:.0} shared phases in {wakes:.0} pool wake-ups, 0 allocations");
            let (threads, roof) = if peak.is_some() { (&*threads, "roof  ") } else { ("", "") };
            let _ = writeln!(text, "{threads}\n  share    time/run  launches/run  GFLOP/s     GB/s   {roof}kernel, line");
            for row in account.rows.iter().filter(|r| r.nanoseconds > 0.0) {
                let roof = peak.map(|peak| format!("{:>3.0} %  ", 100.0 * peak.nanoseconds(row.flops, row.bytes) / row.nanoseconds));
                let _ = writeln!(
                    text,
                    "{:>5.1} %  {:>10}  {:>12.1}  {:>7.1}  {:>7.1}  {}{}  {}",
                    100.0 * row.nanoseconds / total.max(1.0),
                    time(row.nanoseconds / runs),
                    row.launches as f64 / runs,
                    row.flops / row.nanoseconds,
                    row.bytes / row.nanoseconds,
                    roof.unwrap_or_default(),
                    row.what,
                    row.line
                );
            }
        }
        text
    }

    /// The same as JSON.
    pub fn json(&self, peak: Option<&Peak>) -> Value {
        let row = |r: &Row| json!({ "kernel": r.what, "line": r.line, "launches": r.launches, "nanoseconds": r.nanoseconds, "bytes": r.bytes, "flops": r.flops });
        let account = |a: &Account| {
            let rows: Vec<Value> = a.rows.iter().map(row).collect();
            let [launches, flops, bytes] = a.work();
            json!({
                "entry": a.entry, "runs": a.runs, "timed_runs": a.timed, "nanoseconds": a.nanoseconds, "launches": launches, "flops": flops, "bytes_moved": bytes,
                "phases": a.phases, "pool_wakeups": a.wakes, "allocations": 0, "kernels": rows
            })
        };
        let accounts: Vec<Value> = self.accounts().iter().map(account).collect();
        let peak = peak.map(|peak| json!({ "gflops": peak.gflops, "gigabytes": peak.gigabytes }));
        json!({ "profile": accounts, "peak": peak, "gpu": self.card.map(Card::to_string) })
    }

    /// The first events in the form that `chrome://tracing` reads: microseconds, one row a thread.
    pub fn chrome(&self) -> Value {
        let event = |(what, thread, begin, length): &(String, usize, f64, f64)| json!({ "name": what, "ph": "X", "pid": 1, "tid": thread, "ts": begin / 1e3, "dur": length / 1e3 });
        json!({ "traceEvents": self.events.iter().map(event).collect::<Vec<_>>() })
    }
}

fn time(nanoseconds: f64) -> String {
    match nanoseconds {
        n if n < 999.5 => format!("{n:.0} ns"),
        n if n < 999_995.0 => format!("{:.2} us", n / 1e3),
        n => format!("{:.2} ms", n / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_kernels_at_equal_lines_are_one_row_of_the_table() {
        let row = |what: &str, nanoseconds| Row { what: what.into(), line: "m.nn:3".into(), launches: 2, nanoseconds, bytes: 1e3, flops: 4e3 };
        let account = |rows| Account { entry: "train:fit".into(), runs: 2, timed: 2, nanoseconds: 8e3, phases: 6.0, wakes: 2, rows };
        let mut profile = Profile::new(None, None);
        profile.add(account(vec![row("a", 100.0), row("b", 500.0), row("a", 300.0)]), vec![("a".into(), 1, 1500.0, 250.0)]);
        profile.add(account(vec![row("a", 200.0)]), vec![]);
        let accounts = profile.accounts();
        assert_eq!((accounts.len(), accounts[0].runs, accounts[0].rows.len()), (1, 4, 2));
        assert_eq!((accounts[0].rows[0].what.as_str(), accounts[0].rows[0].nanoseconds, accounts[0].rows[0].launches), ("a", 600.0, 6));
        let text = profile.text(Some(&Peak { gflops: 100.0, gigabytes: 10.0 }));
        // 12,000 operations at 100 a nanosecond take 120, 3,000 bytes at 10 take 300: half of what was measured.
        assert!(text.contains(" 54.5 %      150 ns           1.5     20.0      5.0   50 %  a  m.nn:3\n"), "{text}");
        assert!(text.contains("\na run: 2 launches, 4000 FLOPs, 1000 bytes moved, 3 shared phases in 1 pool wake-ups, 0 allocations\n"), "{text}");
        assert_eq!(profile.chrome()["traceEvents"][0]["dur"], json!(0.25));
    }
}
