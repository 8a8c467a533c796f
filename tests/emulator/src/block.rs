//! A block: its threads, the memory that they share, and who may go on.

use crate::{Fault, Order};
use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};
use nnc_runtime::memory::Aligned;
use nnc_runtime::random::Generator;
use std::cell::RefCell;
use std::collections::VecDeque;

/// Bytes of a thread's stack.
const STACK: usize = 64 * 1024;
/// Bytes of a block's shared memory.
const SHARED: usize = 48 * 1024;
/// Threads that run in step on a GPU.
const WARP: usize = 32;

/// A primitive as emulated code calls it.
type Call = unsafe extern "C" fn(*mut Context, i64, i64, i64) -> i64;

/// What emulated code finds behind its last parameter: the primitives in their order (`nnc::emit::cuda::Primitive`), then what only they look at.
#[repr(C)]
struct Context {
    primitives: [Call; 9],
    thread: usize,
    block: usize,
    blocks: usize,
    shared: *mut u8,
    failed: i64,
    /// Waits for the block and for the team so far, and the one that is left out.
    waits: [u64; 2],
    fault: Option<Fault>,
    /// What the thread waits for, and what it gets when it goes on.
    request: Option<Request>,
    reply: i64,
    yielder: *const Yielder<(), ()>,
}

/// Why a thread waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    /// For all threads of the block.
    Barrier,
    /// For the threads of its warp that the mask names.
    Team { mask: u32 },
    /// The same, for the word of the thread so many further in its half of the warp; its own, if there is none.
    Down { mask: u32, word: i64, by: usize },
    /// The same, for the word of this thread in its half of the warp.
    From { mask: u32, word: i64, lane: usize },
    /// For all threads of its warp, and their parts of a product, which lie there.
    Product { words: *mut u32 },
}

const PRIMITIVES: [Call; 9] = [thread, block, blocks, shared, fail, barrier, team, shuffle, product];

unsafe extern "C" fn thread(c: *mut Context, _: i64, _: i64, _: i64) -> i64 {
    unsafe { (*c).thread as i64 }
}

unsafe extern "C" fn block(c: *mut Context, _: i64, _: i64, _: i64) -> i64 {
    unsafe { (*c).block as i64 }
}

unsafe extern "C" fn blocks(c: *mut Context, _: i64, _: i64, _: i64) -> i64 {
    unsafe { (*c).blocks as i64 }
}

unsafe extern "C" fn shared(c: *mut Context, _: i64, _: i64, _: i64) -> i64 {
    unsafe { (*c).shared as i64 }
}

unsafe extern "C" fn fail(c: *mut Context, number: i64, _: i64, _: i64) -> i64 {
    unsafe { (*c).failed = number };
    0
}

unsafe extern "C" fn barrier(c: *mut Context, _: i64, _: i64, _: i64) -> i64 {
    unsafe { wait(c, Request::Barrier) }
}

unsafe extern "C" fn team(c: *mut Context, mask: i64, _: i64, _: i64) -> i64 {
    unsafe { wait(c, Request::Team { mask: mask as u32 }) }
}

/// By 0 lanes: from the first one.
unsafe extern "C" fn shuffle(c: *mut Context, mask: i64, word: i64, by: i64) -> i64 {
    let mask = mask as u32;
    let request = if by == 0 { Request::From { mask, word, lane: 0 } } else { Request::Down { mask, word, by: by as usize } };
    unsafe { wait(c, request) }
}

unsafe extern "C" fn product(c: *mut Context, words: i64, _: i64, _: i64) -> i64 {
    unsafe { wait(c, Request::Product { words: std::ptr::with_exposed_provenance_mut(words as usize) }) }
}

/// Hands over to other threads until the request is met.
unsafe fn wait(c: *mut Context, request: Request) -> i64 {
    // Safety: the context outlives its thread, whose coroutine the yielder is; nobody else touches it while this thread runs.
    unsafe {
        let next = |kind: usize| {
            (*c).waits[kind] += 1;
            (*c).waits[kind] - 1
        };
        let fault = match request {
            Request::Barrier => Some(Fault::Barrier(next(0))),
            Request::Team { .. } => Some(Fault::Team(next(1))),
            Request::Down { .. } | Request::From { .. } | Request::Product { .. } => None,
        };
        if fault.is_some() && fault == (*c).fault {
            return 0;
        }
        (*c).request = Some(request);
        (*(*c).yielder).suspend(());
        (*c).reply
    }
}

thread_local! {
    /// Stacks that blocks have given back.
    static STACKS: RefCell<Vec<DefaultStack>> = const { RefCell::new(vec![]) };
}

type Thread<'a> = Coroutine<(), (), (), DefaultStack>;

/// See the module.
pub struct Block {
    contexts: Vec<Context>,
    order: Order,
    /// Threads that wait for the whole block.
    arrived: usize,
    /// The largest number of a check that has failed.
    pub failed: i64,
    /// How often threads have waited.
    pub waits: u64,
}

impl Block {
    /// Number `block` of `blocks`.
    pub fn new(block: usize, blocks: usize, threads: usize, order: Order, fault: Option<Fault>) -> Block {
        let context = |thread| Context {
            primitives: PRIMITIVES,
            thread,
            block,
            blocks,
            shared: std::ptr::null_mut(),
            failed: 0,
            waits: [0; 2],
            fault,
            request: None,
            reply: 0,
            yielder: std::ptr::null(),
        };
        Block { contexts: (0..threads).map(context).collect(), order, arrived: 0, failed: 0, waits: 0 }
    }

    /// Runs `kernel` on every thread, with the pointer that it is to hand to the code.
    ///
    /// # Panics
    /// If threads wait for what does not come.
    pub fn run(&mut self, kernel: &dyn Fn(*mut u8)) {
        let mut shared = Aligned::zeroed(SHARED).expect("memory for a block");
        shared.fill(0xff);
        self.contexts.iter_mut().for_each(|c| c.shared = shared.as_ptr());
        let stacks = STACKS.take();
        let mut stacks = stacks.into_iter().chain(std::iter::repeat_with(|| DefaultStack::new(STACK).expect("memory for a stack")));
        let contexts = self.contexts.as_mut_ptr();
        let mut threads: Vec<Thread> = (0..self.contexts.len())
            .map(|n| {
                // Safety: within the vector, which does not change while threads run.
                let context = unsafe { contexts.add(n) };
                let run = move |yielder: &Yielder<(), ()>, ()| {
                    // Safety: as in `wait`.
                    unsafe { (*context).yielder = yielder };
                    kernel(context.cast());
                };
                // Safety: what the closure borrows outlives the coroutine, which ends in this function.
                unsafe { Coroutine::with_stack_unchecked(stacks.next().expect("there is always one more"), run) }
            })
            .collect();
        let mut ready: VecDeque<usize> = (0..threads.len()).collect();
        let mut random = Generator::new(if let Order::Random(seed) = self.order { seed } else { 0 });
        // In order, unless the order is any.
        while let Some(thread) = match self.order {
            Order::Forward => ready.pop_front(),
            Order::Backward => ready.pop_back(),
            Order::Random(_) => ready.swap_remove_back(random.below(ready.len().max(1))),
        } {
            if let CoroutineResult::Yield(()) = threads[thread].resume(()) {
                self.waits += 1;
                let met = self.met(thread);
                if !met.is_empty() {
                    ready.extend(met);
                    ready.make_contiguous().sort_unstable();
                }
            }
        }
        self.failed = self.contexts.iter().map(|c| c.failed).max().unwrap_or(0);
        let waiting: Vec<usize> = (0..threads.len()).filter(|n| !threads[*n].done()).collect();
        for n in &waiting {
            // Safety: compiled code owns nothing, and cannot be unwound.
            unsafe { threads[*n].force_reset() };
        }
        STACKS.set(threads.into_iter().map(Coroutine::into_stack).collect());
        if let Some(first) = waiting.first() {
            let (count, request) = (waiting.len(), self.contexts[*first].request);
            panic!("{count} threads of block {} wait forever, thread {first} for {request:?}", self.contexts[*first].block);
        }
    }

    /// The threads that can go on now that this one waits, with what they get.
    fn met(&mut self, thread: usize) -> Vec<usize> {
        let request = self.contexts[thread].request.expect("a thread waits for something");
        let (mask, same): (u32, Box<dyn Fn(Request) -> bool>) = match request {
            Request::Barrier => {
                self.arrived += 1;
                if self.arrived < self.contexts.len() {
                    return vec![];
                }
                self.arrived = 0;
                self.contexts.iter_mut().for_each(|c| c.request = None);
                return (0..self.contexts.len()).collect();
            }
            Request::Team { mask } => (mask, Box::new(move |r| r == request)),
            Request::Down { mask, by, .. } => (mask, Box::new(move |r| matches!(r, Request::Down { mask: m, by: b, .. } if (m, b) == (mask, by)))),
            Request::Product { .. } => (u32::MAX, Box::new(|r| matches!(r, Request::Product { .. }))),
            Request::From { mask, lane, .. } => {
                (mask, Box::new(move |r| matches!(r, Request::From { mask: m, lane: l, .. } if (m, l) == (mask, lane))))
            }
        };
        let warp = thread / WARP * WARP;
        let members: Vec<usize> = (0..WARP).filter(|lane| mask >> lane & 1 == 1).map(|lane| warp + lane).collect();
        let met = members.iter().all(|n| self.contexts.get(*n).is_some_and(|c| c.request.is_some_and(&same)));
        assert!(members.contains(&thread), "thread {thread} waits for others only: {request:?}");
        if !met {
            return vec![];
        }
        if matches!(request, Request::Product { .. }) {
            let words = |n: &usize| match self.contexts[*n].request {
                Some(Request::Product { words }) => words,
                _ => unreachable!("all of them ask for it"),
            };
            // SAFETY: each has ten words on the stack of a thread that waits.
            unsafe { multiply(&members.iter().map(words).collect::<Vec<_>>()) };
        }
        let half = WARP / 2;
        let word = |n: usize| match self.contexts[n].request {
            Some(Request::Down { word, .. } | Request::From { word, .. }) => word,
            _ => 0,
        };
        let replies: Vec<i64> = members
            .iter()
            .map(|n| match self.contexts[*n].request {
                Some(Request::Down { by, .. }) if n % half + by < half => word(n + by),
                Some(Request::From { lane, .. }) => word(n / half * half + lane),
                _ => word(*n),
            })
            .collect();
        for (n, reply) in members.iter().zip(replies) {
            let context = &mut self.contexts[*n];
            (context.reply, context.request) = (reply, None);
        }
        members
    }
}

/// What tensor units do with a warp's words: four of A (16 x 8), two of B (8 x 8), four of C (16 x 8), which becomes C + A B. Of a factor they take 11 bits,
/// and results are cut off, as some cards' are: a program may count on no more.
unsafe fn multiply(words: &[*mut u32]) {
    let word = |lane: usize, n: usize| unsafe { words[lane].add(n) };
    let number = |at: *mut u32| f32::from_bits(unsafe { at.read() });
    let factor = |at: *mut u32| f32::from_bits(unsafe { at.read() } & !0x1fff) as f64;
    let a = |row: usize, k: usize| factor(word(row % 8 * 4 + k % 4, row / 8 + k / 4 * 2));
    let b = |k: usize, column: usize| factor(word(column * 4 + k % 4, 4 + k / 4));
    for row in 0..16 {
        for column in 0..8 {
            let to = word(row % 8 * 4 + column / 2, 6 + row / 8 * 2 + column % 2);
            let sum = (0..8).fold(number(to) as f64, |sum, k| sum + a(row, k) * b(k, column));
            let near = sum as f32;
            let cut = if (near as f64).abs() > sum.abs() { f32::from_bits(near.to_bits() - 1) } else { near };
            unsafe { to.cast::<f32>().write(cut) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const ORDERS: [Order; 4] = [Order::Forward, Order::Backward, Order::Random(1), Order::Random(2)];

    fn number(context: *mut u8) -> usize {
        unsafe { thread(context.cast(), 0, 0, 0) as usize }
    }

    #[test]
    fn a_barrier_lets_everybody_see_what_was_written_before() {
        for order in ORDERS {
            let (places, sums) = ([const { Cell::new(0) }; 70], [const { Cell::new(0) }; 70]);
            let mut block = Block::new(0, 1, 70, order, None);
            block.run(&|context| {
                let me = number(context);
                for round in 0..3 {
                    places[me].set(me + round);
                    unsafe { barrier(context.cast(), 0, 0, 0) };
                    sums[me].set(sums[me].get() + places[69 - me].get());
                    unsafe { barrier(context.cast(), 0, 0, 0) };
                }
            });
            (0..70).for_each(|n| assert_eq!(sums[n].get(), 3 * (69 - n) + 3, "{order:?}"));
            assert_eq!(block.waits, 70 * 6);
        }
    }

    #[test]
    fn words_go_down_within_halves_of_a_warp() {
        for order in ORDERS {
            let found = [const { Cell::new([0; 2]) }; 64];
            Block::new(0, 1, 64, order, None).run(&|context| {
                let me = number(context);
                let mask = 0xffff << (me & 16);
                let word = 100 + me as i64;
                found[me].set([8, 0].map(|by| unsafe { shuffle(context.cast(), mask, word, by) }));
            });
            for (n, found) in found.iter().enumerate() {
                let [down, first] = found.get();
                assert_eq!(first, 100 + (n / 16 * 16) as i64);
                assert_eq!(down, 100 + (if n % 16 < 8 { n + 8 } else { n }) as i64);
            }
        }
    }

    /// The places that the interface of PTX gives to the elements of a product, written down a second time.
    #[test]
    fn a_warps_words_are_matrices() {
        let (a, b) = (|r: usize, k: usize| (r * 8 + k) as f32, |k: usize, c: usize| (k as f32 - c as f32) / 4.0);
        let found = [const { Cell::new([0.0f32; 4]) }; 32];
        Block::new(0, 1, 32, Order::Random(3), None).run(&|context| {
            let me = number(context);
            let (g, t) = (me / 4, me % 4);
            let c = [1.0, 2.0, 3.0, 4.0];
            let mut words = [a(g, t), a(g + 8, t), a(g, t + 4), a(g + 8, t + 4), b(t, g), b(t + 4, g), c[0], c[1], c[2], c[3]].map(f32::to_bits);
            unsafe { product(context.cast(), words.as_mut_ptr().expose_provenance() as i64, 0, 0) };
            found[me].set(std::array::from_fn(|n| f32::from_bits(words[6 + n])));
        });
        for (me, found) in found.iter().enumerate() {
            let (g, t) = (me / 4, me % 4);
            for (n, got) in found.get().into_iter().enumerate() {
                let (row, column) = (g + n / 2 * 8, 2 * t + n % 2);
                assert_eq!(got, (0..8).map(|k| a(row, k) * b(k, column)).sum::<f32>() + n as f32 + 1.0);
            }
        }
    }

    #[test]
    #[should_panic(expected = "31 threads of block 3 wait forever, thread 0 for Some(Barrier)")]
    fn who_leaves_a_barrier_out_is_missed() {
        Block::new(3, 4, 32, Order::Forward, None).run(&|context| {
            if number(context) != 5 {
                unsafe { barrier(context.cast(), 0, 0, 0) };
            }
        });
    }
}
