//! An allocator that tells the program when there is no memory left.
//!
//! Where an allocation fails, Rust aborts: no message of the program's, no exit code of its own.
//! (The hook of the standard library for that is not stable.)

use std::alloc::{GlobalAlloc, Layout};

/// A global allocator around another one, which calls a function of the program's where the other
/// has nothing left.
///
/// ```
/// use std::alloc::System;
/// use unwrong_kernels::Alarm;
///
/// #[global_allocator]
/// static ALLOCATOR: Alarm<System> = Alarm::new(System, |_bytes| std::process::exit(2));
/// ```
pub struct Alarm<A> {
    inner: A,
    on_failure: fn(usize),
}

impl<A> Alarm<A> {
    /// Around `inner`; `on_failure` is told how many bytes could not be had, and may allocate
    /// nothing. Where it returns, the allocation fails as ever.
    pub const fn new(inner: A, on_failure: fn(usize)) -> Self {
        Self { inner, on_failure }
    }

    fn heard(&self, start: *mut u8, bytes: usize) -> *mut u8 {
        if start.is_null() {
            (self.on_failure)(bytes);
        }
        start
    }
}

// SAFETY: everything is passed on as it is.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Alarm<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: passed on.
        self.heard(unsafe { self.inner.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: passed on.
        self.heard(unsafe { self.inner.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: passed on.
        unsafe { self.inner.dealloc(start, layout) };
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: passed on.
        self.heard(unsafe { self.inner.realloc(start, layout, size) }, size)
    }
}

#[cfg(test)]
mod tests {
    use std::alloc::System;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    static MISSED: AtomicUsize = AtomicUsize::new(0);

    /// Has 64 bytes at most.
    struct Little;

    // SAFETY: the system's, or null.
    unsafe impl GlobalAlloc for Little {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            if layout.size() > 64 {
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
    fn only_a_failure_is_told() {
        let allocator = Alarm::new(Little, |bytes| MISSED.store(bytes, Ordering::Relaxed));
        let layout = Layout::new::<[u64; 4]>();
        // SAFETY: the layouts are not empty; what comes back is freed once, with its layout.
        unsafe {
            let start = allocator.alloc(layout);
            assert_eq!(MISSED.load(Ordering::Relaxed), 0);
            assert!(allocator.realloc(start, layout, 96).is_null());
            assert_eq!(MISSED.swap(0, Ordering::Relaxed), 96);
            allocator.dealloc(start, layout);
            assert!(allocator.alloc_zeroed(Layout::new::<[u64; 10]>()).is_null());
            assert_eq!(MISSED.load(Ordering::Relaxed), 80);
        }
    }
}
