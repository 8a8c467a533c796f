//! An entry on a GPU, one line after the other, for those who look at every value.
//!
//! The host's buffers mirror the GPU's: what a line wrote there is brought to the same place here before anyone looks.

use super::Gpu;
use super::context::{Context, Memory};
use super::run::{Places, Unrolled};
use crate::error::{Result, wrong};
use crate::exec::Prepared;
use crate::launch::{Op, Table};
use crate::tensors::Store;

/// Shows the table, a line of it, and whether it has run; false where nobody wants to see more.
type See<'a> = &'a mut dyn FnMut(&Table, usize, bool) -> bool;

impl Prepared {
    /// [`Prepared::step_through`] on a GPU. The stored tensors here, too, are as the last line left them.
    pub(crate) fn step_through_on(&mut self, gpu: &Gpu, store: &mut Store, see: See) -> Result<()> {
        // So that the two are equal.
        store.here()?;
        let stored = store.on(gpu)?;
        let context = gpu.context.clone();
        let turn = context.turn()?;
        let recorded = self.placed(gpu, stored)?;
        self.bind(store, store.memory().0);
        self.advanced = None;
        self.blank();
        context.upload(recorded.memory.start, &self.arena)?;
        context.upload(recorded.given, &self.given)?;
        let word = Memory::new(&context, 4, &self.name)?;
        context.clear(word.start, 4)?;
        context.wait(&self.name)?;
        let places = self.places(stored, recorded.memory.start, recorded.given, store);
        let mut all = Unrolled::new(gpu, self, &places, recorded.positions);
        let walked = self.table.unroll(0, &mut |line, args| {
            if !see(&self.table, line, false) {
                return Ok(false);
            }
            let held = match &self.table.ops[line] {
                // SAFETY: a bool buffer of `count` bytes, which mirrors the GPU's.
                Op::Check { at, count, .. } => !unsafe { std::slice::from_raw_parts(args[*at], *count) }.contains(&0),
                _ => {
                    all.line(line, args)?;
                    let done = perform(&context, &mut all, &word, &self.name)?;
                    self.mirror(&context, line, store, &places)?;
                    done
                }
            };
            if held { Ok(see(&self.table, line, true)) } else { wrong!("{}", self.failure(line)) }
        });
        drop(turn);
        self.recorded = Some(recorded);
        walked
    }

    /// Brings here what a line has written on the GPU.
    fn mirror(&self, context: &Context, line: usize, store: &Store, places: &Places) -> Result<()> {
        let touches = self.works[line].iter().flat_map(|work| &work.touches);
        for touch in touches.filter(|t| t.written && t.end > t.start) {
            let start = match touch.place {
                0 => self.arena.as_ptr(),
                1 => self.given.as_ptr(),
                n => store.memory().0.wrapping_add(store.start(n - 2)),
            };
            let here = start.wrapping_add(touch.start);
            let Some(there) = places.find(here) else { continue };
            // SAFETY: bytes of a buffer, all of which lie in memory that lives now; nobody else looks at them.
            context.download(unsafe { std::slice::from_raw_parts_mut(here, touch.end - touch.start) }, there)?;
        }
        context.wait(&self.name)
    }
}

/// Does what was appended, now; whether no launch found an index out of bounds.
fn perform(context: &std::sync::Arc<Context>, all: &mut Unrolled, word: &Memory, name: &str) -> Result<bool> {
    let bounce = Memory::new(context, std::mem::take(&mut all.bounce), name)?;
    let mut found = [0; 4];
    for mut item in all.items.drain(..) {
        // All launches share one word: the first that fails ends the walk.
        item.settle(&|_| word.start, 0, bounce.start);
        item.perform(context)?;
    }
    context.download(&mut found, word.start)?;
    context.wait(name)?;
    Ok(found == [0; 4])
}
