//! Which steps run side by side, and who runs how much of them.
//!
//! In: a straight run of steps, each with its independent tasks, what they cost and what memory they touch. Out: phases of consecutive steps that do not
//! depend on each other, where that is worth more than handing work over costs, cut into chunks of equal cost; everything else is serial.
//! Cutting changes no result: tasks are independent, and phases follow each other.

use crate::pool::CHUNKS;

/// A phase below this many nanoseconds of work gains less from a second thread than it costs.
const BREAK_EVEN: f64 = 10_000.0;
/// A chunk is at least this long.
const GRAIN: f64 = 4_000.0;
/// Phases with more work than this for each thread are cut finer, so that a thread that is held up leaves its share to others.
const LONG: f64 = 100_000.0;
/// Chunks for each thread then.
const FINE: usize = 4;
/// So many times the tasks that share work ([`Work::whole`]) share more, where one call runs them all: the other factor of a product is packed once for
/// so many panels. Cutting finer costs more than a late helper gains.
const PANELS: i64 = 16;
/// The same where a task is a panel: few rows read so many from one end to the other.
const SIDE_BY_SIDE: i64 = 64;
/// A step with many tasks is cut at multiples of this many, so that no two threads write to one cache line and vectors stay whole.
const WHOLE: i64 = 64;
/// A thread may get more than its share by this part, where that keeps together what shares work.
const UNEVEN: f64 = 1.0 / 16.0;

/// Bytes `start..end` of one of the places where buffers lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Touch {
    /// Which place; no two overlap.
    pub place: usize,
    /// From its start.
    pub start: usize,
    /// Exclusive.
    pub end: usize,
    /// How many of them a launch touches: fewer where it advances with a loop.
    pub bytes: usize,
    /// Read otherwise.
    pub written: bool,
    /// Whether its rows lie one after the other as the step's do ([`Rows`]), and it advances by whole multiples of itself.
    pub rows: bool,
}

/// The rows that a step's tasks are made of ([`crate::manifest::Rows`]).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rows {
    /// How many.
    pub count: i64,
    /// So many pieces of nearly equal height, the higher ones first, have as many tasks each.
    pub pieces: i64,
}

/// A loop without loops inside.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loop {
    /// Its own line; then come its body's.
    pub first: usize,
    /// The line of its end.
    pub end: usize,
    /// How often its body runs.
    pub rounds: i64,
    /// Where its position lies.
    pub index: Touch,
}

/// Steps that are run part by part ([`crate::manifest::Chain`]).
#[derive(Clone, Debug, PartialEq)]
pub struct Chain {
    /// The first step.
    pub first: usize,
    /// The step after its last.
    pub end: usize,
    /// How many parts.
    pub parts: i64,
    /// What begins elsewhere in every part.
    pub own: Vec<Own>,
}

/// An argument of which each thread has memory for one part.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Own {
    /// Which argument: its address is that of the first thread's.
    pub slot: usize,
    /// Bytes of a part.
    pub bytes: usize,
    /// Bytes from one thread's to the next one's.
    pub apart: usize,
}

/// A step as far as cutting needs to know it.
#[derive(Clone, Debug, PartialEq)]
pub struct Work {
    /// Independent tasks; a step with loops, checks or other marks of the control flow has none.
    pub tasks: i64,
    /// So many of them share work, from a multiple of it on; 1 where those that follow each other do better together; 0 where nothing is shared.
    pub whole: i64,
    /// What all of them take on one thread, in nanoseconds.
    pub nanoseconds: f64,
    /// All memory it touches.
    pub touches: Vec<Touch>,
    /// Inside of loops.
    pub rows: Option<Rows>,
}

/// Tasks `lo..hi` of a step, or parts `lo..hi` of the chain that it begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Segment {
    /// Its position in the table.
    pub step: u32,
    /// First task.
    pub lo: i64,
    /// One past the last task.
    pub hi: i64,
}

/// Consecutive steps that run together.
#[derive(Clone, Debug, PartialEq)]
pub struct Phase {
    /// The first step. Where it is a loop, the phase is all of its rounds; where it begins a chain, all of its parts.
    pub first: usize,
    /// How many steps.
    pub steps: usize,
    /// Chunks, each a list of segments, run one after the other.
    pub chunks: Vec<Vec<Segment>>,
}

/// The phases of a table with such inner loops and chains, in order; none stretches over line `border`.
pub fn cut(table: &[Option<Work>], loops: &[Loop], chains: &[Chain], border: usize, threads: usize) -> Vec<Phase> {
    let mut phases = vec![];
    let mut first = 0;
    while first < table.len() {
        if let Some(chain) = chains.iter().find(|chain| chain.first == first) {
            phases.extend(by_parts(table, chain, threads));
            first = chain.end;
            continue;
        }
        if let Some(around) = loops.iter().find(|l| l.first == first)
            && let Some(phase) = by_rows(table, around, threads)
        {
            first += phase.steps;
            phases.push(phase);
            continue;
        }
        let mut end = first;
        while let Some(Some(next)) = table.get(end)
            && (end == first || end != border && chains.iter().all(|chain| chain.first != end))
            && table[first..end].iter().flatten().all(|w| independent(w, next))
        {
            end += 1;
        }
        phases.extend(phase(table, first..end, threads));
        first = end.max(first + 1);
    }
    phases
}

fn independent(a: &Work, b: &Work) -> bool {
    !a.touches.iter().any(|x| b.touches.iter().any(|y| meet(x, y)))
}

/// Whether it matters which comes first.
fn meet(x: &Touch, y: &Touch) -> bool {
    (x.written || y.written) && x.place == y.place && x.start < y.end && y.start < x.end
}

/// A chain as one phase, if it pays: each chunk is some of its parts.
fn by_parts(table: &[Option<Work>], chain: &Chain, threads: usize) -> Option<Phase> {
    let total: f64 = table[chain.first..chain.end].iter().flatten().map(|w| w.nanoseconds).sum();
    if threads < 2 || total < BREAK_EVEN {
        return None;
    }
    let most = if total > LONG * threads as f64 { FINE * threads } else { threads };
    let pieces = (most.min(CHUNKS) as i64).min(chain.parts);
    let border = |piece: i64| (chain.parts as i128 * piece as i128 / pieces as i128) as i64;
    let chunk = |piece| vec![Segment { step: chain.first as u32, lo: border(piece), hi: border(piece + 1) }];
    Some(Phase { first: chain.first, steps: chain.end - chain.first, chunks: (0..pieces).map(chunk).collect() })
}

/// All rounds of a loop as one phase: each thread takes some rows through all of them, and nobody waits for another in between. That needs rows which
/// depend on themselves alone: whatever is written, in any round, has the same rows for all that touch it.
fn by_rows(table: &[Option<Work>], around: &Loop, threads: usize) -> Option<Phase> {
    let lines = around.first + 1..around.end;
    let works = table[lines.clone()].iter().map(|w| w.as_ref().and_then(|w| Some((w, w.rows?)))).collect::<Option<Vec<_>>>()?;
    let total: f64 = works.iter().map(|(w, _)| w.nanoseconds).sum::<f64>() * around.rounds as f64;
    // Those of the steps that have fewest; others have several for each.
    let count = works.iter().map(|(_, rows)| rows.count).min()?;
    if !(2..=CHUNKS).contains(&threads)
        || total < BREAK_EVEN
        || count < 1
        || works.iter().any(|(w, rows)| !rows.countable() || rows.count % count != 0 || w.tasks % rows.pieces != 0)
    {
        return None;
    }
    let same = |x: &Touch, y: &Touch| {
        x.rows && y.rows && x.bytes == y.bytes && x.bytes.is_multiple_of(count as usize) && x.start.abs_diff(y.start).is_multiple_of(x.bytes.max(1))
    };
    let touches: Vec<&Touch> = works.iter().flat_map(|(w, _)| &w.touches).collect();
    if touches.iter().any(|x| meet(x, &around.index) || touches.iter().any(|y| meet(x, y) && !same(x, y))) {
        return None;
    }
    // Cut where the coarsest can be.
    let coarsest = works.iter().map(|(_, rows)| *rows).min_by_key(|rows| rows.pieces)?;
    let mut borders = vec![0];
    for n in 1..=threads as i64 {
        let row = coarsest.start((coarsest.pieces * n + threads as i64 / 2) / threads as i64);
        let each = coarsest.count / count;
        let (row, even) = (row / each, row % each == 0);
        let share = (row - borders.last()?) as f64 * threads as f64 / count as f64;
        if !even || share <= 0.0 || share > 1.0 + 2.0 * UNEVEN {
            return None;
        }
        borders.push(row);
    }
    let mut chunks = vec![vec![]; threads];
    for (step, (work, rows)) in lines.zip(&works) {
        let task = |row: i64| Some(rows.piece(row * (rows.count / count))? * (work.tasks / rows.pieces));
        for (chunk, border) in chunks.iter_mut().zip(borders.windows(2)) {
            chunk.push(Segment { step: step as u32, lo: task(border[0])?, hi: task(border[1])? });
        }
    }
    Some(Phase { first: around.first, steps: around.end - around.first + 1, chunks })
}

impl Rows {
    /// Whether pieces are rows, and products of their numbers are numbers: a damaged artifact may say anything.
    fn countable(&self) -> bool {
        (1..=self.count).contains(&self.pieces) && self.count <= i64::from(i32::MAX)
    }

    /// The first row of a piece.
    fn start(&self, piece: i64) -> i64 {
        piece * (self.count / self.pieces) + piece.min(self.count % self.pieces)
    }

    /// The piece that begins with the row.
    fn piece(&self, row: i64) -> Option<i64> {
        let near = row * self.pieces / self.count.max(1);
        (near - 1..=near + 1).find(|piece| (0..=self.pieces).contains(piece) && self.start(*piece) == row)
    }
}

/// The steps as one phase, if it pays. Their tasks are laid end to end by cost, and the line is cut into equal pieces.
fn phase(table: &[Option<Work>], steps: std::ops::Range<usize>, threads: usize) -> Option<Phase> {
    let works: Vec<(usize, &Work)> = steps.clone().filter_map(|k| Some((k, table[k].as_ref()?))).collect();
    let total: f64 = works.iter().map(|(_, w)| w.nanoseconds).sum();
    if threads < 2 || total < BREAK_EVEN {
        return None;
    }
    let longest = works.iter().map(|(_, w)| w).max_by(|a, b| a.nanoseconds.total_cmp(&b.nanoseconds))?;
    let groups = |tasks: i64| (tasks as usize / threads).clamp(1, FINE);
    let fine = match longest.whole {
        0 => FINE,
        1 => groups(longest.tasks / SIDE_BY_SIDE),
        whole => groups(longest.tasks / whole / PANELS),
    };
    let most = if total > LONG * threads as f64 { fine * threads } else { threads };
    let pieces = ((total / GRAIN) as usize).clamp(1, most.min(CHUNKS));
    let mut chunks = vec![vec![]; pieces];
    let mut start = 0.0;
    for (step, work) in works {
        let whole = if work.whole == 0 && work.tasks >= WHOLE * 16 { WHOLE } else { work.whole.max(1) };
        let cut = |piece: usize| match piece {
            0 => 0,
            p if p == pieces => work.tasks,
            p => {
                let exact = (total * p as f64 / pieces as f64 - start) / work.nanoseconds * work.tasks as f64;
                let even = ((exact / whole as f64).round() as i64).saturating_mul(whole).clamp(0, work.tasks);
                // Pieces of one thread may be of any size, what different threads get may not.
                let between = pieces <= threads || (p * threads).is_multiple_of(pieces);
                let moved = (even as f64 - exact.clamp(0.0, work.tasks as f64)).abs() / work.tasks as f64 * work.nanoseconds;
                if between && moved > total / threads as f64 * UNEVEN { (exact.round() as i64).clamp(0, work.tasks) } else { even }
            }
        };
        for (piece, chunk) in chunks.iter_mut().enumerate() {
            let (lo, hi) = (cut(piece), cut(piece + 1));
            if lo < hi {
                chunk.push(Segment { step: step as u32, lo, hi });
            }
        }
        start += work.nanoseconds;
    }
    chunks.retain(|c| !c.is_empty());
    (chunks.len() > 1).then_some(Phase { first: steps.start, steps: steps.len(), chunks })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(tasks: i64, nanoseconds: f64, reads: &[usize], writes: &[usize]) -> Option<Work> {
        let touch = |written| move |&n: &usize| Touch { place: 0, start: n * 64, end: n * 64 + 64, bytes: 64, written, rows: false };
        Some(Work {
            tasks,
            whole: 0,
            nanoseconds,
            touches: reads.iter().map(touch(false)).chain(writes.iter().map(touch(true))).collect(),
            rows: None,
        })
    }

    #[test]
    fn independent_steps_share_a_phase_and_every_task_has_one_place() {
        let table = [
            work(100, 2e4, &[0], &[1]),
            work(3000, 3e4, &[0], &[2]),
            work(1, 1e3, &[0], &[3]),
            // Reads what the first has written.
            work(10, 5e4, &[1], &[4]),
            None,
            // Writes what it reads: still independent of nothing else.
            work(7, 9e5, &[5], &[5]),
        ];
        let phases = cut(&table, &[], &[], 0, 2);
        let of: Vec<(usize, usize, usize)> = phases.iter().map(|p| (p.first, p.steps, p.chunks.len())).collect();
        assert_eq!(of, [(0, 3, 2), (3, 1, 2), (5, 1, 7)]);
        for phase in &phases {
            for (k, work) in table.iter().enumerate().filter(|(k, _)| (phase.first..phase.first + phase.steps).contains(k)) {
                let mut mine: Vec<(i64, i64)> = phase.chunks.iter().flatten().filter(|s| s.step as usize == k).map(|s| (s.lo, s.hi)).collect();
                mine.sort_unstable();
                let end = mine.iter().fold(0, |at, &(lo, hi)| {
                    assert!(lo == at && hi > lo, "{mine:?}");
                    hi
                });
                assert_eq!(end, work.as_ref().unwrap().tasks);
            }
        }
        // 51 microseconds for two: the second step is cut at a multiple of 64 near task 550.
        assert_eq!(phases[0].chunks[0], [Segment { step: 0, lo: 0, hi: 100 }, Segment { step: 1, lo: 0, hi: 576 }]);
    }

    #[test]
    fn a_chain_is_cut_between_its_parts() {
        let table = [work(48, 3e4, &[0], &[1]), work(480, 5e4, &[1], &[2]), work(48, 3e4, &[2], &[3]), work(100, 2e4, &[0], &[4])];
        let chain = Chain { first: 0, end: 3, parts: 12, own: vec![] };
        let chunks = |threads| cut(&table, &[], std::slice::from_ref(&chain), 0, threads).into_iter().map(|p| (p.first, p.steps, p.chunks));
        let part = |lo, hi| vec![Segment { step: 0, lo, hi }];
        let phases: Vec<_> = chunks(2).collect();
        assert_eq!(phases[0], (0, 3, vec![part(0, 6), part(6, 12)]));
        // What comes after it is a phase of its own, though it depends on none of the chain's steps.
        assert_eq!((phases[1].0, phases[1].1, phases.len()), (3, 1, 2));
        assert_eq!(chunks(1).count(), 0);
        assert_eq!(chunks(16).next().unwrap().2.len(), 12, "no chunk is without a part");
    }

    #[test]
    fn what_shares_work_stays_together_where_threads_get_their_shares() {
        let starts_of = |panels: i64, whole: i64| {
            let table = [work(panels * whole, 1e6, &[0], &[1]).map(|w| Work { whole, ..w })];
            let phases = cut(&table, &[], &[], 0, 2);
            phases[0].chunks.iter().map(|c| c[0].lo).collect::<Vec<_>>()
        };
        let starts = |panels| starts_of(panels, 11);
        assert_eq!(starts(17), [0, 9 * 11]);
        // Half of three panels is one and a half.
        assert_eq!(starts(3), [0, 17]);
        // Fine cuts only where there is enough for them.
        assert_eq!(starts(70), [0, 18 * 11, 35 * 11, 53 * 11]);
        // Panels of few rows are read side by side.
        assert_eq!(starts_of(128, 1), [0, 64]);
        assert_eq!(starts_of(512, 1), [0, 64, 128, 192, 256, 320, 384, 448]);
    }

    #[test]
    fn what_is_short_or_cannot_be_cut_stays_serial() {
        assert_eq!(cut(&[work(1000, 9e3, &[0], &[1])], &[], &[], 0, 8), []);
        assert_eq!(cut(&[work(1000, 1e6, &[0], &[1])], &[], &[], 0, 1), []);
        assert_eq!(cut(&[work(1, 1e6, &[0], &[1])], &[], &[], 0, 8), []);
        // A thousand dependent steps of a microsecond each.
        let chain: Vec<_> = (0..1000).map(|k| work(1000, 1e3, &[k], &[k + 1])).collect();
        assert_eq!(cut(&chain, &[], &[], 0, 8), []);
    }

    /// A loop of 10 rounds at line 0 over a product of 32 rows in 4 tiles of 8 panels (from 1 to 2), and gates (from 2 to 1 and 3).
    fn recurrent() -> (Vec<Option<Work>>, Loop) {
        let touch = |place, end, written, rows| Touch { place, start: 0, end, bytes: 3200, written, rows };
        let product = vec![touch(9, 3200, false, false), touch(1, 3200, false, true), touch(2, 3200, true, true)];
        let gates = vec![touch(2, 3200, false, true), touch(1, 3200, true, true), touch(3, 10 * 3200, true, true)];
        let line = |tasks, count, pieces, touches| Some(Work { tasks, whole: 0, nanoseconds: 2e4, touches, rows: Some(Rows { count, pieces }) });
        let index = Touch { place: 0, start: 0, end: 8, bytes: 8, written: true, rows: false };
        (vec![None, line(32, 32, 4, product), line(320, 320, 320, gates), None], Loop { first: 0, end: 3, rounds: 10, index })
    }

    #[test]
    fn rows_that_depend_on_themselves_alone_go_through_a_loop_by_themselves() {
        let (table, around) = recurrent();
        let segment = |step, lo, hi| Segment { step, lo, hi };
        let chunks = vec![vec![segment(1, 0, 16), segment(2, 0, 160)], vec![segment(1, 16, 32), segment(2, 160, 320)]];
        assert_eq!(cut(&table, &[around], &[], 0, 2), [Phase { first: 0, steps: 4, chunks }]);
        // Four tiles are no equal shares for three threads: line by line then.
        let lines =
            |table: &[Option<Work>], around: Loop, threads| cut(table, &[around], &[], 0, threads).iter().map(|p| p.first).collect::<Vec<_>>();
        assert_eq!(lines(&table, around, 3), [1, 2]);
        // All that may tie rows together: a result without rows, other rows in the same memory, steps that are no multiples, the loop's own position.
        let changed = |line: usize, touch: usize, change: fn(&mut Touch)| {
            let (mut table, around) = recurrent();
            change(&mut table[line].as_mut().unwrap().touches[touch]);
            lines(&table, around, 2)
        };
        assert_eq!(changed(2, 1, |t| t.rows = false), [1, 2]);
        assert_eq!(changed(2, 0, |t| t.bytes = 1600), [1, 2]);
        assert_eq!(changed(2, 1, |t| t.start = 100), [1, 2]);
        // The first factor's weights, where the loop's position lies.
        assert_eq!(changed(1, 0, |t| t.place = 0), [1, 2]);
        // Numbers that no kernel has.
        for pieces in [0, -4, 64, i64::MAX] {
            let (mut table, around) = recurrent();
            let product = table[1].as_mut().unwrap();
            (product.tasks, product.rows) = (0, Some(Rows { count: 32, pieces }));
            assert_eq!(lines(&table, around, 2), [2]);
        }
        // What nobody else touches may lie as it likes.
        assert_eq!(changed(1, 0, |t| t.start = 100), [0]);
    }

    #[test]
    fn pieces_begin_where_rows_say() {
        let rows = Rows { count: 32, pieces: 3 };
        assert_eq!((0..=3).map(|p| rows.start(p)).collect::<Vec<_>>(), [0, 11, 22, 32]);
        assert_eq!([0, 11, 22, 32, 16].map(|row| rows.piece(row)), [Some(0), Some(1), Some(2), Some(3), None]);
    }
}
