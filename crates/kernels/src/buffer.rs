//! Memory: outputs that are never zeroed, and scratch that threads keep.

use std::cell::RefCell;
use std::ops::Range;

/// A result while it is being written, possibly by several threads.
pub(crate) struct Output {
    values: Vec<f32>,
    len: usize,
}

/// How many numbers a shape holds.
///
/// # Panics
/// If that is more than a `usize` counts: a shape with a zero may hold nothing and still have
/// parts that do not fit.
pub(crate) fn count<const N: usize>(shape: [usize; N]) -> usize {
    let count = shape.iter().try_fold(1_usize, |count, &side| count.checked_mul(side));
    count.unwrap_or_else(|| panic!("{shape:?} numbers do not fit into memory"))
}

impl Output {
    /// Room for `len` numbers, not initialised.
    pub(crate) fn new(len: usize) -> Self {
        Self { values: Vec::with_capacity(len), len }
    }

    /// Numbers that are there already, to be changed.
    pub(crate) fn of(values: Vec<f32>) -> Self {
        Self { len: values.len(), values }
    }

    /// A handle that threads can copy.
    pub(crate) fn shared(&mut self) -> Shared {
        Shared { start: self.values.as_mut_ptr(), len: self.len }
    }

    /// The finished vector.
    ///
    /// # Safety
    /// Every number must have been written.
    pub(crate) unsafe fn finish(mut self) -> Vec<f32> {
        // SAFETY: the capacity is at least `len`; the caller wrote all of it.
        unsafe { self.values.set_len(self.len) };
        self.values
    }
}

/// Memory that several threads write, each its own part.
#[derive(Clone, Copy)]
pub(crate) struct Shared {
    start: *mut f32,
    len: usize,
}

// SAFETY: only a pointer and a length; who dereferences it promises disjoint parts.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// A handle on memory that is already initialised.
    pub(crate) fn of(values: &mut [f32]) -> Self {
        Self { start: values.as_mut_ptr(), len: values.len() }
    }

    /// The part `range`.
    ///
    /// # Safety
    /// The memory must still be there and no other reference may overlap the part while this
    /// one lives. Numbers that were not written yet must not be read.
    ///
    /// # Panics
    /// If `range` is not inside.
    #[expect(clippy::mut_from_ref, reason = "disjointness is the caller's promise")]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [f32] {
        assert!(range.start <= range.end && range.end <= self.len, "part of an output");
        // SAFETY: in bounds by the assertion, the rest by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    /// The part `range`, to be read, by several threads at once if need be.
    ///
    /// # Safety
    /// The memory must still be there, the part written, and nobody may write it while the
    /// reference lives.
    ///
    /// # Panics
    /// If `range` is not inside.
    pub(crate) unsafe fn read(&self, range: Range<usize>) -> &[f32] {
        assert!(range.start <= range.end && range.end <= self.len, "part of an output");
        // SAFETY: in bounds by the assertion, the rest by the caller.
        unsafe { std::slice::from_raw_parts(self.start.add(range.start), range.len()) }
    }

    /// The address of number `index`, which may be one past the end.
    ///
    /// # Panics
    /// If `index` is not inside.
    pub(crate) fn at(&self, index: usize) -> *mut f32 {
        assert!(index <= self.len, "index in an output");
        // SAFETY: in bounds by the assertion.
        unsafe { self.start.add(index) }
    }

    /// How many numbers follow `index`.
    pub(crate) fn after(&self, index: usize) -> usize {
        self.len - index
    }
}

/// A cache line. Panels start at one, so that no vector load crosses two.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[expect(dead_code, reason = "read through slices of f32")] [f32; 16]);

thread_local! {
    /// A stack: nested users find what they left at their own depth.
    static SCRATCH: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Runs `body` with one slice per length in `lengths`, each aligned to a cache line.
///
/// The contents are whatever the last user left. The thread keeps the memory.
pub(crate) fn with_scratch<const N: usize, R>(
    lengths: [usize; N],
    body: impl FnOnce([&mut [f32]; N]) -> R,
) -> R {
    let lines = lengths.map(|length| length.div_ceil(16));
    let mut memory = SCRATCH.with_borrow_mut(Vec::pop).unwrap_or_default();
    let total = lines.iter().sum();
    if memory.len() < total {
        memory.clear(); // nothing worth copying when it grows
        memory.resize(total, Line([0.0; 16]));
    }
    let mut rest = memory.as_mut_slice();
    let parts = lines.map(|count| {
        let (part, after) = std::mem::take(&mut rest).split_at_mut(count);
        rest = after;
        // SAFETY: a line is sixteen f32 without padding.
        unsafe { std::slice::from_raw_parts_mut(part.as_mut_ptr().cast::<f32>(), count * 16) }
    });
    let result = body(parts);
    SCRATCH.with_borrow_mut(|stack| stack.push(memory));
    result
}
