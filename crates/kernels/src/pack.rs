//! Packing: a block of a weight, widened to f32, in the order in which the multiplication
//! reads it.
//!
//! A panel holds [`PANEL`] outputs: for each input in turn, the sixteen numbers that
//! multiply it. Panels of a block follow each other, the last one may be partly unused.

use std::ops::Range;

use crate::isa::per_isa;
use crate::matrix::Dtype;
use crate::simd::{LANES, Simd};

/// Outputs of a panel: two vectors.
pub(crate) const PANEL: usize = 16;

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
    /// there is no table. In a last panel of at most eight outputs the second vector is left
    /// as it was; else unused outputs are zero.
    pub(crate) fn pack(
        source: Rows<'_>,
        outputs: Range<usize>,
        inputs: Range<usize>,
        places: Option<&[u32]>,
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
    packed: &mut [f32],
) {
    match source.dtype {
        Dtype::F32 => pack_of(s, F32, source, outputs, inputs, places, packed),
        Dtype::F16 => pack_of(s, F16, source, outputs, inputs, places, packed),
        Dtype::Bf16 => pack_of(s, Bf16, source, outputs, inputs, places, packed),
    }
}

#[inline(always)]
fn pack_of<S: Simd, N: Number>(
    s: S,
    number: N,
    source: Rows<'_>,
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
        let more = rows.end < outputs.end;
        let source = (source, more);
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
    (source, more): (Rows<'_>, bool),
    rows: Range<usize>,
    first_input: usize,
    place: impl Fn(usize) -> usize,
    panel: &mut [f32],
) {
    let (lines, _) = panel.as_chunks_mut::<PANEL>();
    let depth = lines.len();
    for half in 0..2 {
        let lane = half * LANES;
        let valid = rows.len().saturating_sub(lane).min(LANES);
        if valid == 0 {
            return; // at most eight outputs: nobody reads the second vector
        }
        let starts: [usize; LANES] = std::array::from_fn(|j| {
            (rows.start + lane + j.min(valid - 1)) * source.stride + first_input
        });
        let mut k = 0;
        while k + LANES <= depth {
            // Rows are short and far apart: the processor does not see the next panel coming.
            if k % 32 == 0 && more {
                for start in starts {
                    let at = (start + PANEL * source.stride + k) * N::SIZE;
                    crate::simd::prefetch(source.bytes.as_ptr().wrapping_add(at).cast());
                }
            }
            let mut block = [s.splat(0.0); LANES];
            for j in 0..LANES {
                if j < valid {
                    block[j] = number.eight(s, source.bytes, starts[j] + k);
                }
            }
            for (j, column) in s.transpose(block).into_iter().enumerate() {
                let line = &mut lines[place(k + j)];
                let eight = line[lane..].first_chunk_mut().expect("a line has two vectors");
                s.store(column, eight);
            }
            k += LANES;
        }
        while k < depth {
            let line = &mut lines[place(k)];
            for j in 0..LANES {
                line[lane + j] =
                    if j < valid { number.one(source.bytes, starts[j] + k) } else { 0.0 };
            }
            k += 1;
        }
    }
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
    /// Eight numbers from number `index` of `bytes` on.
    fn eight<S: Simd>(self, s: S, bytes: &[u8], index: usize) -> S::V;
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
    fn eight<S: Simd>(self, s: S, bytes: &[u8], index: usize) -> S::V {
        s.widen_f32(bytes_at(bytes, index * 4))
    }

    #[inline(always)]
    fn one(self, bytes: &[u8], index: usize) -> f32 {
        f32::from_le_bytes(*bytes_at(bytes, index * 4))
    }
}

impl Number for F16 {
    const SIZE: usize = 2;
    #[inline(always)]
    fn eight<S: Simd>(self, s: S, bytes: &[u8], index: usize) -> S::V {
        s.widen_f16(bytes_at(bytes, index * 2))
    }

    #[inline(always)]
    fn one(self, bytes: &[u8], index: usize) -> f32 {
        crate::simd::f16_to_f32(u16::from_le_bytes(*bytes_at(bytes, index * 2)))
    }
}

impl Number for Bf16 {
    const SIZE: usize = 2;
    #[inline(always)]
    fn eight<S: Simd>(self, s: S, bytes: &[u8], index: usize) -> S::V {
        s.widen_bf16(bytes_at(bytes, index * 2))
    }

    #[inline(always)]
    fn one(self, bytes: &[u8], index: usize) -> f32 {
        crate::simd::bf16_to_f32(u16::from_le_bytes(*bytes_at(bytes, index * 2)))
    }
}
