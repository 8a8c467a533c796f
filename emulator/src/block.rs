//! A block: its threads, the memory that they share, and who may go on.

use crate::Order;
use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};
use nnc_runtime::memory::Aligned;
use nnc_runtime::random::Generator;
use std::cell::RefCell;

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
    primitives: [Call; 8],
    thread: usize,
    block: usize,
    blocks: usize,
    shared: *mut u8,
    failed: i64,
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
}

const PRIMITIVES: [Call; 8] = [thread, block, blocks, shared, fail, barrier, team, shuffle];

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

/// Hands over to other threads until the request is met.
unsafe fn wait(c: *mut Context, request: Request) -> i64 {
    // Safety: the context outlives its thread, whose coroutine the yielder is; nobody else touches it while this thread runs.
    unsafe {
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
    /// The largest number of a check that has failed.
    pub failed: i64,
    /// How often threads have waited.
    pub waits: u64,
}

impl Block {
    /// Number `block` of `blocks`.
    pub fn new(block: usize, blocks: usize, threads: usize, order: Order) -> Block {
        let context = |thread| Context {
            primitives: PRIMITIVES,
            thread,
            block,
            blocks,
            shared: std::ptr::null_mut(),
            failed: 0,
            request: None,
            reply: 0,
            yielder: std::ptr::null(),
        };
        Block { contexts: (0..threads).map(context).collect(), order, failed: 0, waits: 0 }
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
        let mut ready: Vec<usize> = (0..threads.len()).collect();
        let mut random = Generator::new(if let Order::Random(seed) = self.order { seed } else { 0 });
        while !ready.is_empty() {
            // Sorted, or in any order where the choice is any.
            let chosen = match self.order {
                Order::Forward => 0,
                Order::Backward => ready.len() - 1,
                Order::Random(_) => random.below(ready.len()),
            };
            let thread = ready.remove(chosen);
            self.contexts[thread].request = None;
            if let CoroutineResult::Yield(()) = threads[thread].resume(()) {
                self.waits += 1;
                ready.extend(self.met(thread));
                ready.sort_unstable();
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
        let all = |contexts: &[Context], members: &[usize], same: &dyn Fn(Request) -> bool| {
            members.iter().all(|n| contexts.get(*n).is_some_and(|c| c.request.is_some_and(same)))
        };
        let warp = thread / WARP * WARP;
        let members = |mask: u32| (0..WARP).filter(|lane| mask >> lane & 1 == 1).map(|lane| warp + lane).collect::<Vec<_>>();
        let request = self.contexts[thread].request.expect("a thread waits for something");
        let (members, met) = match request {
            Request::Barrier => {
                let members: Vec<usize> = (0..self.contexts.len()).collect();
                let met = all(&self.contexts, &members, &|r| r == Request::Barrier);
                (members, met)
            }
            Request::Team { mask } => (members(mask), all(&self.contexts, &members(mask), &|r| r == request)),
            Request::Down { mask, by, .. } => {
                let same = |r| matches!(r, Request::Down { mask: m, by: b, .. } if (m, b) == (mask, by));
                (members(mask), all(&self.contexts, &members(mask), &same))
            }
            Request::From { mask, lane, .. } => {
                let same = |r| matches!(r, Request::From { mask: m, lane: l, .. } if (m, l) == (mask, lane));
                (members(mask), all(&self.contexts, &members(mask), &same))
            }
        };
        assert!(members.contains(&thread), "thread {thread} waits for others only: {request:?}");
        if !met {
            return vec![];
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
        members.iter().zip(replies).for_each(|(n, reply)| self.contexts[*n].reply = reply);
        members
    }
}
