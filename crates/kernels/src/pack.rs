//! Packing: a block of a weight, widened to f32, in the order in which the multiplication
//! reads it.
//!
//! A panel holds [`PANEL`] outputs: for each input in turn, the sixteen numbers that
//! multiply it. Panels of a block follow each other, the last one may be partly unused.

use std::ops::Range;

use crate::isa::per_isa;
use crate::matrix::Dtype;
use crate::simd::{LANES, Simd, prefetch};

/// Outputs of a panel: two vectors.
pub(crate) const PANEL: usize = 16;

/// Bytes of a cache line.
const CACHE_LINE: usize = 64;

/// Rows of numbers anywhere in memory, `stride` numbers apart.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) dtype: Dtype,
    pub(crate) bytes: &'a [u8],
    pub(crate) stride: usize,
}

/// Floats that [`pack`] writes for `outputs` of `depth` inputs each.
pub(crate) fn packed_len(outputs: usize, depth: usize) -> usize {
    outputs.div_ceil(PANEL) * PANEL * depth
}

per_isa! {
    /// Packs rows `outputs`, numbers `inputs` of each.
    ///
    /// Input `k` of the block becomes number `places[k]` of the panel, or number `k` where
    /// there is no table. Unused outputs of the last panel are zero. Row `next`, if any, is the
    /// first of what will be packed after these.
    pub(crate) fn pack(
        source: Rows<'_>,
        outputs: Range<usize>,
        inputs: Range<usize>,
        places: Option<&[u32]>,
        next: Option<usize>,
        packed: &mut [f32],
    ) = pack_body
}

#[inline(always)]
fn pack_body<S: Simd>(
    s: S,
    source: Rows<'_>,
    outputs: Range<usize>,
    inputs: Range<usize>,
    places: Option<&[u32]>,
    next: Option<usize>,
    packed: &mut [f32],
) {
    let source = (source, next);
    match source.0.dtype {
        Dtype::F32 => pack_of(s, F32, source, outputs, inputs, places, packed),
        Dtype::F16 => pack_of(s, F16, source, outputs, inputs, places, packed),
        Dtype::Bf16 => pack_of(s, Bf16, source, outputs, inputs, places, packed),
    }
}

#[inline(always)]
fn pack_of<S: Simd, N: Number>(
    s: S,
    number: N,
    (source, next): (Rows<'_>, Option<usize>),
    outputs: Range<usize>,
    inputs: Range<usize>,
    places: Option<&[u32]>,
    packed: &mut [f32],
) {
    let depth = inputs.len();
    if depth == 0 {
        return;
    }
    let panels = packed.chunks_exact_mut(PANEL * depth);
    for (first, panel) in outputs.clone().step_by(PANEL).zip(panels) {
        let rows = first..outputs.end.min(first + PANEL);
        let next = if rows.end < outputs.end { Some(rows.end) } else { next };
        let source = (source, next);
        match places {
            Some(places) => {
                let places = &places[..depth];
                pack_panel(s, number, source, rows, inputs.start, |k| places[k] as usize, panel);
            }
            None => pack_panel(s, number, source, rows, inputs.start, |k| k, panel),
        }
    }
}

#[inline(always)]
fn pack_panel<S: Simd, N: Number>(
    s: S,
    number: N,
    (source, next): (Rows<'_>, Option<usize>),
    rows: Range<usize>,
    first_input: usize,
    place: impl Fn(usize) -> usize,
    panel: &mut [f32],
) {
    let (lines, _) = panel.as_chunks_mut::<PANEL>();
    let start = rows.start * source.stride + first_input;
    let len = (rows.len() - 1) * source.stride + lines.len();
    let bytes = &source.bytes[start * N::SIZE..(start + len) * N::SIZE];
    let stride = source.stride;
    let next = next.map(|row| {
        let number = row * stride + first_input;
        source.bytes.as_ptr().wrapping_add(number * N::SIZE)
    });
    let done = if rows.len() == PANEL {
        // Known to the compiler, the count costs nothing in the loop.
        pack_eights(s, number, (bytes, stride, PANEL), next, &place, lines)
    } else {
        pack_eights(s, number, (bytes, stride, rows.len()), next, &place, lines)
    };
    for k in done..lines.len() {
        let line = &mut lines[place(k)];
        for (j, out) in line.iter_mut().enumerate() {
            *out = if j < rows.len() { number.one(bytes, j * stride + k) } else { 0.0 };
        }
    }
}

/// Packs eight inputs at a time and returns how many it has packed. `bytes` holds `valid` rows;
/// the numbers from `next` on, with the same stride, are the next panel's.
#[inline(always)]
fn pack_eights<S: Simd, N: Number>(
    s: S,
    number: N,
    (bytes, stride, valid): (&[u8], usize, usize),
    next: Option<*const u8>,
    place: &impl Fn(usize) -> usize,
    lines: &mut [[f32; PANEL]],
) -> usize {
    let whole = lines.len() / LANES * LANES;
    if whole == 0 {
        return 0;
    }
    assert!(((valid - 1) * stride + lines.len()) * N::SIZE <= bytes.len());
    let row = |j: usize, k: usize| bytes.as_ptr().wrapping_add((j * stride + k) * N::SIZE);
    for k in (0..whole).step_by(LANES) {
        // Rows are short and far apart: the processor does not see the next panel coming.
        if let Some(next) = next
            && k % (CACHE_LINE / N::SIZE) == 0
        {
            for j in 0..PANEL {
                prefetch(next.wrapping_add((j * stride + k) * N::SIZE).cast());
            }
        }
        for half in 0..2 {
            let mut block = [s.splat(0.0); LANES];
            for (j, eight) in block.iter_mut().enumerate() {
                if half * LANES + j < valid {
                    // SAFETY: a row that is there, and `whole` of its numbers are.
                    *eight = unsafe { number.eight(s, row(half * LANES + j, k)) };
                }
            }
            for (j, column) in s.transpose(block).into_iter().enumerate() {
                let (halves, _) = lines[place(k + j)].as_chunks_mut();
                s.store(column, &mut halves[half]);
            }
        }
    }
    whole
}

/// Number `index` of `bytes`, widened.
pub(crate) fn number(dtype: Dtype, bytes: &[u8], index: usize) -> f32 {
    match dtype {
        Dtype::F32 => F32.one(bytes, index),
        Dtype::F16 => F16.one(bytes, index),
        Dtype::Bf16 => Bf16.one(bytes, index),
    }
}

/// A stored number format; all give the f32 exactly.
trait Number: Copy {
    const SIZE: usize;
    /// The eight numbers from `bytes` on.
    ///
    /// # Safety
    /// They must be readable.
    unsafe fn eight<S: Simd>(self, s: S, bytes: *const u8) -> S::V;
    fn one(self, bytes: &[u8], index: usize) -> f32;
}

#[derive(Clone, Copy)]
struct F32;
#[derive(Clone, Copy)]
struct F16;
#[derive(Clone, Copy)]
struct Bf16;

#[inline(always)]
fn bytes_at<const N: usize>(bytes: &[u8], start: usize) -> &[u8; N] {
    bytes[start..].first_chunk().expect("the block lies inside the weight")
}

impl Number for F32 {
    const SIZE: usize = 4;
    #[inline(always)]
    unsafe fn eight<S: Simd>(self, s: S, bytes: *const u8) -> S::V {
        // SAFETY: by the caller.
        s.widen_f32(unsafe { &*bytes.cast() })
    }

    #[inline(always)]
    fn one(self, bytes: &[u8], index: usize) -> f32 {
        f32::from_le_bytes(*bytes_at(bytes, index * 4))
    }
}

impl Number for F16 {
    const SIZE: usize = 2;
    #[inline(always)]
    unsafe fn eight<S: Simd>(self, s: S, bytes: *const u8) -> S::V {
        // SAFETY: by the caller.
        s.widen_f16(unsafe { &*bytes.cast() })
    }

    #[inline(always)]
    fn one(self, bytes: &[u8], index: usize) -> f32 {
        crate::simd::f16_to_f32(u16::from_le_bytes(*bytes_at(bytes, index * 2)))
    }
}

impl Number for Bf16 {
    const SIZE: usize = 2;
    #[inline(always)]
    unsafe fn eight<S: Simd>(self, s: S, bytes: *const u8) -> S::V {
        // SAFETY: by the caller.
        s.widen_bf16(unsafe { &*bytes.cast() })
    }

    #[inline(always)]
    fn one(self, bytes: &[u8], index: usize) -> f32 {
        crate::simd::bf16_to_f32(u16::from_le_bytes(*bytes_at(bytes, index * 2)))
    }
}
