//! What a decode and an encode allocate at most, against the estimate: a whole picture is only
//! refused or tiled for a reason.

#![expect(unsafe_code, clippy::unwrap_used, reason = "a counting allocator, and a test may panic")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{DType, Device, Tensor};
use unwrong_models::files::{Folder, ModelParts};
use unwrong_models::layers::Run;
use unwrong_models::lora::LayerAdapters;
use unwrong_models::ops::Ops;
use unwrong_models::vae::Vae;

/// The system's allocator, counting.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn grow(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(live, Ordering::Relaxed);
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) };
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that `body` had allocated at most, beside what was there before.
fn peak(body: impl FnOnce()) -> u64 {
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    body();
    (PEAK.load(Ordering::Relaxed) - before) as u64
}

#[test]
fn decode_and_encode_stay_within_their_estimates() {
    let folder = common::root().join("crates/demo/model/base");
    let parts = ModelParts::open_folder(&Folder::disk(folder)).unwrap();
    let (config, weights) = parts.vae.as_ref().unwrap();
    let vae = Vae::load(config, weights).unwrap();
    let none = LayerAdapters::default();
    let run = Run::new(Ops::Cpu, &none);
    let zeros = |height: usize, width: usize, channels: usize| {
        Tensor::zeros((1, height, width, channels), DType::F32, &Device::Cpu).unwrap()
    };
    for size in [[8, 8], [20, 50], [64, 64]] {
        let [height, width] = size;
        let (latents, pixels) = (zeros(height, width, 4), zeros(8 * height, 8 * width, 3));
        let works = [
            ("decode", vae.plan_decode(size, None), peak(|| drop(vae.decode(&run, &latents)))),
            ("encode", vae.plan_encode(size, None), peak(|| drop(vae.encode(&run, &pixels)))),
        ];
        for (what, work, found) in works {
            let estimate = work.bytes;
            assert!(found <= estimate, "{what} {size:?}: {found} bytes, estimated {estimate}");
            // Not far above either; scratch and the like are 160 MB.
            let least = (estimate - 160_000_000) / 2;
            assert!(found >= least, "{what} {size:?}: {found} bytes, estimated {estimate}");
        }
    }
}
