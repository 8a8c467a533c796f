//! The loops of the micro-kernels ([`super::micro`]), in assembly: here alone each instruction counts, none may be spilled, and what one release of
//! LLVM makes of a loop should not decide how fast models are.
//!
//! What costs time beside the multiply-adds is everything else that the core does with them: an element of A is loaded once for all vectors of its
//! row, addresses are constants beside a pointer wherever steps are, and pointers move once in some steps.

use crate::emit::Level;
use crate::emit::contract::TILE_STEP;
use crate::emit::micro::{Field, LEAF, PANEL};
use crate::ir::DType;
use std::fmt::Write as _;

/// Bytes of a line of the caches.
pub const LINE: i64 = 64;
/// Steps that ask for a row of what comes next, 128 bytes: a line each, so that requests hardly wait for each other.
pub const AHEAD: i64 = PANEL / LINE;
/// Steps before their turn that a panel's rows are asked for where it is read in place.
const IN_PLACE: i64 = 8;
/// Rows that one pointer reaches with the steps an address can hold.
pub const GROUP: usize = 3;
/// Pointers to every third row of A.
const A: [&str; 4] = ["rsi", "rbx", "rbp", "r10"];
/// What functions give back as it was.
const SAVED: [&str; 6] = ["rbx", "rbp", "r12", "r13", "r14", "r15"];

/// A function `symbol(tile, rows)` for up to `most` rows and so many of the level's vectors: one or two of a panel, or two of each of two panels that are
/// [`Field::NextB`] apart.
pub fn function(symbol: &str, dtype: DType, level: Level, most: usize, vectors: usize) -> String {
    let mut text = String::new();
    let labels: Vec<String> = (1..=most).map(|rows| format!(".L{symbol}.{rows}")).collect();
    let _ = write!(text, ".text\n.globl {symbol}\n.type {symbol},@function\n.p2align 6\n{symbol}:\n");
    // A table of distances, for no rows too.
    let _ = write!(text, "lea .L{symbol}.table(%rip), %rax\nmovslq (%rax,%rsi,4), %rcx\nadd %rcx, %rax\njmp *%rax\n.L{symbol}.none:\nret\n");
    let _ = write!(text, ".p2align 2\n.L{symbol}.table:\n.long .L{symbol}.none-.L{symbol}.table\n");
    labels.iter().for_each(|label| _ = writeln!(text, ".long {label}-.L{symbol}.table"));
    for (rows, label) in (1..).zip(&labels) {
        Loop { text: &mut text, label, dtype, level, rows, vectors }.write();
    }
    let _ = writeln!(text, ".size {symbol}, .-{symbol}");
    text
}

/// How A's and B's steps are known.
#[derive(Clone, Copy)]
enum Steps {
    /// In registers.
    Any,
    /// A's are so many bytes, B's a panel's row.
    Known(i64),
}

struct Loop<'a> {
    text: &'a mut String,
    /// What labels begin with.
    label: &'a str,
    dtype: DType,
    level: Level,
    rows: usize,
    /// Of a row.
    vectors: usize,
}

impl Loop<'_> {
    fn line(&mut self, line: impl AsRef<str>) {
        self.text.push_str(line.as_ref());
        self.text.push('\n');
    }

    fn at(&mut self, place: &str) {
        self.line(format!("{}.{place}:", self.label));
    }

    fn jump(&mut self, how: &str, place: &str) {
        self.line(format!("{how} {}.{place}", self.label));
    }

    fn load(&mut self, field: Field, register: &str) {
        self.line(format!("mov {}(%rdi), %{register}", 8 * field as i64));
    }

    /// An instruction for elements of the type.
    fn packed(&self, name: &str) -> String {
        format!("{name}p{}", if self.dtype == DType::F64 { 'd' } else { 's' })
    }

    fn vector(&self, n: usize) -> String {
        format!("%{}{n}", if self.level == Level::V4 { "zmm" } else { "ymm" })
    }

    /// Bytes of a vector.
    fn bytes(&self) -> i64 {
        if self.level == Level::V4 { 64 } else { 32 }
    }

    /// Steps of a round, where A and B lie as constants say: half as many where little is multiplied with them, which saves code.
    fn round(&self) -> i64 {
        if self.vectors == 1 { AHEAD } else { 2 * AHEAD }
    }

    /// Whether there are two panels.
    fn pair(&self) -> bool {
        self.vectors == 4
    }

    fn sum(&self, row: usize, vector: usize) -> String {
        self.vector(row * self.vectors + vector)
    }

    /// A vector's place in a row of B or C, where registers hold its first panel's and how far the second is.
    fn column(&self, base: &str, next: &str, from: i64, vector: usize) -> String {
        let at = from + (vector % 2) as i64 * self.bytes();
        if vector < 2 { format!("{at}(%{base})") } else { format!("{at}(%{base},%{next})") }
    }

    fn write(mut self) {
        let groups = self.rows.div_ceil(GROUP);
        self.line(".p2align 4");
        self.line(format!("{}:", self.label));
        SAVED.iter().for_each(|r| self.line(format!("push %{r}")));
        let named = [(Field::A, A[0]), (Field::ARow, "r8"), (Field::AStep, "r9"), (Field::B, "rdx"), (Field::Left, "r13"), (Field::Count, "r14")];
        named.into_iter().for_each(|(field, register)| self.load(field, register));
        self.load(Field::First, "r15");
        // Where there are two panels B is packed, and its steps are known.
        self.load(if self.pair() { Field::NextB } else { Field::BStep }, "r11");
        self.line("lea (%r8,%r8,2), %rax");
        (1..groups).for_each(|g| self.line(format!("lea (%{},%rax), %{}", A[g - 1], A[g])));
        // Those of half a panel wait in scratch.
        if self.vectors > 1 {
            self.ask_for_sums();
        }

        // A leaf after the other.
        self.at("leaf");
        for n in 0..self.rows * self.vectors {
            // Only the newer encoding reaches registers from 16 on.
            let xor = if n < 16 { "vpxor" } else { "vpxord" };
            self.line(format!("{xor} %xmm{n}, %xmm{n}, %xmm{n}"));
        }
        self.line("mov %r14, %r12");
        self.line(format!("mov ${LEAF}, %eax\ncmp %rax, %r12\ncmovg %rax, %r12"));

        // Within it, a run of A after the other.
        self.at("run");
        self.line("test %r12, %r12");
        self.jump("jle", "join");
        self.line("mov %r12, %rax\ncmp %r13, %rax\ncmovg %r13, %rax\nsub %rax, %r12\nsub %rax, %r13");

        // Within that, some steps at once, then step by step.
        let element = self.dtype.bytes() as i64;
        let known = [("line", element), ("column", TILE_STEP * element)];
        if !self.pair() {
            self.line(format!("cmp ${PANEL}, %r11"));
            self.jump("jne", "step");
        }
        for (place, step) in known {
            self.line(format!("cmp ${step}, %r9"));
            self.jump("je", place);
        }
        self.jump("jmp", "step");
        for (place, step) in known {
            self.at(place);
            self.line(format!("mov %rax, %rcx\nshr ${}, %rcx", self.round().ilog2()));
            self.jump("jz", "step");
            self.line(format!("and ${}, %eax", self.round() - 1));
            // What comes next is asked for meanwhile, a little each round; where nothing is, what is there already.
            self.load(Field::Ahead, "r9");
            self.line("test %r9, %r9\ncmovz %rdx, %r9\n.p2align 5");
            self.at(&format!("{place}.steps"));
            for n in 0..self.round() {
                self.step(n, step);
                self.line(format!("prefetcht1 {}(%r9)", n % AHEAD * LINE));
                if n % AHEAD == AHEAD - 1 {
                    self.line(format!("add {}(%rdi), %r9", 8 * Field::AheadStep as i64));
                }
            }
            self.moves(self.round(), Steps::Known(step));
            self.line("dec %rcx");
            self.jump("jnz", &format!("{place}.steps"));
            self.line(format!("mov ${step}, %r9d\ntest %eax, %eax"));
            self.jump("jz", "ran");
            self.jump("jmp", "step");
        }
        self.line(".p2align 5");
        self.at("step");
        self.step(0, 0);
        // Rows of a panel in place lie where no processor sees them coming.
        if !self.pair() {
            (0..self.vectors as i64 * self.bytes() / LINE).for_each(|n| self.line(format!("prefetcht1 {}(%rdx,%r11,{IN_PLACE})", n * LINE)));
        }
        self.moves(1, Steps::Any);
        self.line("dec %rax");
        self.jump("jnz", "step");

        self.at("ran");
        self.line("test %r13, %r13");
        self.jump("jnz", "run");
        self.load(Field::Jump, "rax");
        (0..groups).for_each(|g| self.line(format!("add %rax, %{}", A[g])));
        self.load(Field::Run, "r13");
        self.jump("jmp", "run");

        // The leaf's sums join those in C, or are the first there.
        self.at("join");
        self.load(Field::C, "rax");
        self.load(Field::CRow, "rcx");
        if self.pair() {
            self.load(Field::NextC, "r12");
        }
        self.line("test %r15, %r15");
        self.jump("jz", "add");
        self.sums(false);
        self.line("xor %r15d, %r15d");
        self.jump("jmp", "joined");
        self.at("add");
        self.sums(true);
        self.at("joined");
        self.line(format!("sub ${LEAF}, %r14"));
        self.jump("jg", "leaf");
        SAVED.iter().rev().for_each(|r| self.line(format!("pop %{r}")));
        self.line("vzeroupper\nret");
    }

    /// Asks for sums that are there already and wait for these: a result's rows may lie in a page each, in no cache.
    fn ask_for_sums(&mut self) {
        self.line("test %r15, %r15");
        self.jump("jnz", "leaf");
        self.load(Field::C, "rax");
        self.load(Field::CRow, "rcx");
        if self.pair() {
            self.load(Field::NextC, "r12");
        }
        for row in 0..self.rows {
            let lines: Vec<String> = (0..self.vectors).map(|v| self.column("rax", "r12", 0, v)).collect();
            lines.iter().for_each(|line| self.line(format!("prefetchw {line}")));
            if row + 1 < self.rows {
                self.line("add %rcx, %rax");
            }
        }
    }

    /// Step number `n` of a round, in which A's are `step` bytes apart.
    fn step(&mut self, n: i64, step: i64) {
        let sums = self.rows * self.vectors;
        let (first, spread) = (sums, sums + self.vectors);
        for v in 0..self.vectors {
            self.line(format!("vmovups {}, {}", self.column("rdx", "r11", n * PANEL, v), self.vector(first + v)));
        }
        let registers = if self.level == Level::V4 { 32 } else { 16 };
        for row in 0..self.rows {
            let element = self.vector(spread + row % (registers - spread));
            let beside = ["", ",%r8", ",%r8,2"][row % GROUP];
            let scalar = if self.dtype == DType::F64 { "sd" } else { "ss" };
            self.line(format!("vbroadcast{scalar} {}(%{}{beside}), {element}", n * step, A[row / GROUP]));
            for v in 0..self.vectors {
                self.line(format!("{} {}, {element}, {}", self.packed("vfmadd231"), self.vector(first + v), self.sum(row, v)));
            }
        }
    }

    /// Moves the pointers by `n` steps.
    fn moves(&mut self, n: i64, steps: Steps) {
        let (a, b) = match steps {
            Steps::Known(step) => (format!("${}", n * step), format!("${}", n * PANEL)),
            Steps::Any => ("%r9".into(), if self.pair() { format!("${PANEL}") } else { "%r11".into() }),
        };
        (0..self.rows.div_ceil(GROUP)).for_each(|g| self.line(format!("add {a}, %{}", A[g])));
        self.line(format!("add {b}, %rdx"));
    }

    /// Stores the sums, or adds them to what is there.
    fn sums(&mut self, add: bool) {
        for row in 0..self.rows {
            for v in 0..self.vectors {
                let (sum, place) = (self.sum(row, v), self.column("rax", "r12", 0, v));
                if add {
                    self.line(format!("{} {place}, {sum}, {sum}", self.packed("vadd")));
                }
                self.line(format!("vmovups {sum}, {place}"));
            }
            if row + 1 < self.rows {
                self.line("add %rcx, %rax");
            }
        }
    }
}
