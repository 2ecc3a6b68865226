//! An allocator that keeps large freed blocks for the next layer.
//!
//! Activations are tens to hundreds of megabytes and live for one layer. Given back to the
//! system, every layer would fault its pages in anew and have them zeroed: a fifth of a VAE's
//! time. Kept without bound, blocks of many sizes would pile up. So freed blocks are kept as long
//! as they and those in use are together hardly more than was once in use at the same time: peak
//! memory grows by a [`SLACK`]th at most.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Smaller blocks are the inner allocator's business.
const LARGE: usize = 1 << 17;
/// This part of the peak may be kept beyond it: where the peak is reached again and again, the
/// small blocks of a layer would else drive out each other.
const SLACK: usize = 32;
/// At so many blocks the oldest one goes.
const SLOTS: usize = 4096;

/// Bytes of all freed blocks that [`Recycling`] keeps: the next layers will use them, so whoever
/// asks what is left of the memory counts them as free.
#[must_use]
pub fn kept_bytes() -> usize {
    KEPT.load(Ordering::Relaxed)
}

static KEPT: AtomicUsize = AtomicUsize::new(0);

/// A global allocator around another one; see the module.
///
/// ```
/// use std::alloc::System;
/// use unwrong_kernels::Recycling;
///
/// #[global_allocator]
/// static ALLOCATOR: Recycling<System> = Recycling::new(System);
/// ```
pub struct Recycling<A> {
    inner: A,
    state: Mutex<State>,
}

struct State {
    /// Bytes of the large blocks in use, and the most there ever were.
    used: usize,
    peak: usize,
    /// Bytes of the kept blocks.
    kept: usize,
    /// The kept blocks, the first `count`, oldest first.
    blocks: [Block; SLOTS],
    count: usize,
}

#[derive(Clone, Copy)]
struct Block {
    start: *mut u8,
    layout: Layout,
}

// SAFETY: a kept block belongs to the state alone.
unsafe impl Send for State {}

impl State {
    /// Takes out block `index`.
    fn take(&mut self, index: usize) -> Block {
        let block = self.blocks[index];
        self.blocks.copy_within(index + 1..self.count, index);
        self.count -= 1;
        self.kept -= block.layout.size();
        KEPT.fetch_sub(block.layout.size(), Ordering::Relaxed);
        block
    }

    /// Keeps a block; there is room for it.
    fn keep(&mut self, block: Block) {
        self.blocks[self.count] = block;
        self.count += 1;
        self.kept += block.layout.size();
        KEPT.fetch_add(block.layout.size(), Ordering::Relaxed);
    }

    /// Counts a block that is in use from now on.
    fn lend(&mut self, layout: Layout) {
        self.used += layout.size();
        self.peak = self.peak.max(self.used);
    }

    /// The oldest block, if more is kept than may be while `more` bytes come into use.
    fn excess(&mut self, more: usize) -> Option<Block> {
        let used = self.used.saturating_add(more);
        let peak = self.peak.max(used);
        let over = used.saturating_add(self.kept) > peak.saturating_add(peak / SLACK)
            || self.count == SLOTS;
        if over { self.oldest() } else { None }
    }

    /// The oldest block.
    fn oldest(&mut self) -> Option<Block> {
        (self.count > 0).then(|| self.take(0))
    }
}

impl<A> Recycling<A> {
    /// Around `inner`.
    pub const fn new(inner: A) -> Self {
        let block = Block { start: std::ptr::null_mut(), layout: Layout::new::<u8>() };
        let state = State { used: 0, peak: 0, kept: 0, blocks: [block; SLOTS], count: 0 };
        Self { inner, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The block that is really asked for, where it is a large one: an eighth of a power of two, so
/// that nearly equal layers share their blocks. The unused end is never touched.
fn large(layout: Layout) -> Option<Layout> {
    let size = layout.size();
    if size < LARGE {
        return None;
    }
    let step = 1 << (size.ilog2() - 3);
    Layout::from_size_align(size.checked_next_multiple_of(step)?, layout.align()).ok()
}

impl<A: GlobalAlloc> Recycling<A> {
    /// A kept block of that layout, where there is one.
    fn reuse(&self, layout: Layout) -> Option<*mut u8> {
        let mut state = self.state();
        let of_size = |block: &Block| block.layout == layout;
        let index = state.blocks[..state.count].iter().rposition(of_size)?;
        let block = state.take(index);
        state.lend(layout);
        Some(block.start)
    }

    /// A block of `inner`'s. Makes room for it first: what is kept must go where the new block
    /// would bring all of it beyond the peak.
    fn fresh(&self, layout: Layout, alloc: impl Fn(Layout) -> *mut u8) -> *mut u8 {
        self.trim(layout.size());
        let mut start = alloc(layout);
        if start.is_null() {
            self.give_back(State::oldest);
            start = alloc(layout);
        }
        if !start.is_null() {
            self.state().lend(layout);
        }
        start
    }

    /// A small block of `inner`'s. Where it has none, what is kept is better spent now.
    fn small(&self, alloc: impl Fn() -> *mut u8) -> *mut u8 {
        let start = alloc();
        if !start.is_null() {
            return start;
        }
        self.give_back(State::oldest);
        alloc()
    }

    /// Gives back what is kept beyond the peak, were `more` bytes in use.
    fn trim(&self, more: usize) {
        self.give_back(|state| state.excess(more));
    }

    /// Gives back blocks while `which` names one.
    fn give_back(&self, which: impl Fn(&mut State) -> Option<Block>) {
        loop {
            let block = which(&mut self.state());
            let Some(Block { start, layout }) = block else { return };
            // SAFETY: it came from `inner` with this layout and nobody else knows it.
            unsafe { self.inner.dealloc(start, layout) };
        }
    }
}

// SAFETY: blocks come from `inner`, with the layout that `large` makes of the caller's, which is
// at least as large and the same at `dealloc`; a kept block is handed out once.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Recycling<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(layout) = large(layout) else {
            // SAFETY: passed on.
            return self.small(|| unsafe { self.inner.alloc(layout) });
        };
        if let Some(start) = self.reuse(layout) {
            return start;
        }
        // SAFETY: at least as large as what the caller asked for, which was not empty.
        self.fresh(layout, |layout| unsafe { self.inner.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let Some(layout) = large(layout) else {
            // SAFETY: passed on.
            return self.small(|| unsafe { self.inner.alloc_zeroed(layout) });
        };
        // SAFETY: passed on; fresh pages are zero without anybody writing them.
        self.fresh(layout, |layout| unsafe { self.inner.alloc_zeroed(layout) })
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        let Some(layout) = large(layout) else {
            // SAFETY: passed on.
            return unsafe { self.inner.dealloc(start, layout) };
        };
        let mut state = self.state();
        state.used -= layout.size();
        if state.count == SLOTS {
            drop(state);
            // SAFETY: it came from `inner` with this layout.
            unsafe { self.inner.dealloc(start, layout) };
            return;
        }
        state.keep(Block { start, layout });
        drop(state);
        self.trim(0);
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Ok(wanted) = Layout::from_size_align(size, layout.align()) else {
            return std::ptr::null_mut();
        };
        match (large(layout), large(wanted)) {
            // SAFETY: passed on.
            (None, None) => self.small(|| unsafe { self.inner.realloc(start, layout, size) }),
            (Some(before), Some(after)) if before == after => start,
            _ => {
                // SAFETY: the new block is another one; both hold at least the smaller size.
                unsafe {
                    let new = self.alloc(wanted);
                    if !new.is_null() {
                        let count = layout.size().min(size);
                        std::ptr::copy_nonoverlapping(start, new, count);
                        self.dealloc(start, layout);
                    }
                    new
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::alloc::System;

    use super::*;

    fn block(megabytes: usize) -> Layout {
        Layout::from_size_align(megabytes << 20, 64).expect("a layout")
    }

    #[test]
    fn a_freed_block_serves_the_next_layer_of_nearly_its_size() {
        let allocator = Recycling::new(System);
        // SAFETY: layouts are not empty; each block is freed once, with its layout.
        unsafe {
            let first = allocator.alloc(block(32));
            allocator.dealloc(first, block(32));
            let smaller = Layout::from_size_align((32 << 20) - 100, 64).expect("a layout");
            let second = allocator.alloc(smaller);
            assert_eq!(first, second);
            allocator.dealloc(second, smaller);
        }
    }

    #[test]
    fn what_is_kept_and_used_is_hardly_more_than_was_once_used() {
        let allocator = Recycling::new(System);
        let mut used = Vec::new();
        let mut peak = 0;
        for (i, size) in
            [10, 20, 30, 5, 40, 12, 3, 60, 7, 33].into_iter().cycle().take(200).enumerate()
        {
            // SAFETY: as above.
            unsafe { used.push((allocator.alloc(block(size)), block(size))) };
            let now: usize =
                used.iter().filter_map(|(_, layout)| Some(large(*layout)?.size())).sum();
            peak = peak.max(now);
            if i % 3 > 0 {
                let (start, layout) = used.remove(i % used.len());
                // SAFETY: as above.
                unsafe { allocator.dealloc(start, layout) };
            }
            while used.len() > 4 {
                let (start, layout) = used.remove(0);
                // SAFETY: as above.
                unsafe { allocator.dealloc(start, layout) };
            }
            let state = allocator.state();
            assert!(
                state.used + state.kept <= peak + peak / SLACK,
                "{} and {}",
                state.used,
                state.kept
            );
        }
        for (start, layout) in used {
            // SAFETY: as above.
            unsafe { allocator.dealloc(start, layout) };
        }
    }

    /// Has no more than 16 MB.
    struct Small;

    // SAFETY: the system's, or null.
    unsafe impl GlobalAlloc for Small {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            if layout.size() > 16 << 20 {
                return std::ptr::null_mut();
            }
            // SAFETY: passed on.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
            // SAFETY: passed on.
            unsafe { System.dealloc(start, layout) };
        }
    }

    #[test]
    fn an_allocation_that_fails_leaves_no_trace_in_what_may_be_kept() {
        let allocator = Recycling::new(Small);
        // SAFETY: as above.
        unsafe {
            let first = allocator.alloc(block(8));
            assert!(allocator.alloc(block(64)).is_null());
            allocator.dealloc(first, block(8));
        }
        let state = allocator.state();
        assert_eq!((state.used, state.peak), (0, 8 << 20));
    }

    #[test]
    fn kept_blocks_are_counted_while_they_are_kept() {
        let allocator = Recycling::new(System);
        // SAFETY: as above.
        unsafe {
            let start = allocator.alloc(block(2000));
            allocator.dealloc(start, block(2000));
            assert!(kept_bytes() >= 2000 << 20);
            let start = allocator.alloc(block(2000));
            assert!(kept_bytes() < 2000 << 20, "other tests keep less meanwhile");
            allocator.dealloc(start, block(2000));
        }
    }

    #[test]
    fn growing_keeps_what_was_written_and_zeroed_memory_is_zero() {
        let allocator = Recycling::new(System);
        // SAFETY: as above; what is read was written.
        unsafe {
            let start = allocator.alloc(block(2));
            start.write_bytes(7, 2 << 20);
            let start = allocator.realloc(start, block(2), 9 << 20);
            assert!(std::slice::from_raw_parts(start, 2 << 20).iter().all(|byte| *byte == 7));
            allocator.dealloc(start, block(9));
            let zeroed = allocator.alloc_zeroed(block(9));
            assert!(std::slice::from_raw_parts(zeroed, 9 << 20).iter().all(|byte| *byte == 0));
            allocator.dealloc(zeroed, block(9));
        }
    }
}
