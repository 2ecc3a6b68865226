//! Attention of 16 queries, side by side in the lanes of two vectors.
//!
//! Everything is kept transposed: a line holds one number of each query (a channel of the
//! queries, the score of one key, a channel of the result). So greatest scores and sums of
//! weights are vectors too, nothing is added across lanes, and a query never meets another.
//!
//! Both products run on tiles of six rows (keys, or channels) and two vectors.

use crate::attention::AttentionShape;
use crate::buffer::Shared;
use crate::isa::per_isa;
use crate::math::exp2;
use crate::simd::{LANES, Simd};

/// Queries of a panel.
pub(super) const QUERIES: usize = 2 * LANES;
/// Rows of a whole tile. With two vectors of columns a compiler keeps all of it in registers;
/// of four rows × three vectors it spilled one, and that was half the speed.
const ROWS: usize = 6;
/// Channels summed up before the next keys: so much of the queries (16 KB) stays in the
/// first-level cache.
const DEPTH: usize = 256;

/// Floats of packed keys: for six keys in turn, those of each channel. The last six may be
/// partly unused; two numbers follow that a whole vector needs.
pub(super) fn keys_len(keys: usize, head_dim: usize) -> usize {
    keys.next_multiple_of(ROWS) * head_dim + 2
}

/// Floats of packed values: for six channels in turn, those of each key.
pub(super) fn values_len(keys: usize, head_dim: usize) -> usize {
    keys * head_dim.next_multiple_of(ROWS)
}

/// Floats for the weights of a panel's queries: a line for each key.
pub(super) fn weights_len(keys: usize) -> usize {
    keys.next_multiple_of(ROWS) * QUERIES
}

/// Floats of a panel: queries, results, greatest scores and sums of weights.
pub(super) fn panel_len(head_dim: usize) -> usize {
    (head_dim + head_dim.next_multiple_of(ROWS) + 2) * QUERIES
}

/// The parts of a panel's memory.
struct Panel<'a> {
    /// `[head_dim][16]`, times scale and log₂e: weights are powers of two.
    queries: &'a mut [f32],
    /// `[head_dim, rounded up][16]`.
    results: &'a mut [f32],
    greatest: &'a mut [f32],
    totals: &'a mut [f32],
}

impl<'a> Panel<'a> {
    fn of(memory: &'a mut [f32], head_dim: usize) -> Self {
        let (queries, rest) = memory.split_at_mut(head_dim * QUERIES);
        let (results, rest) = rest.split_at_mut(head_dim.next_multiple_of(ROWS) * QUERIES);
        let (greatest, totals) = rest.split_at_mut(QUERIES);
        Self { queries, results, greatest, totals }
    }
}

per_isa! {
    /// Packs `count` rows of `k`, see [`keys_len`]. What does not fill six repeats the last key,
    /// which leaves greatest scores as they are.
    pub(super) fn pack_keys(
        k: (&[f32], usize),
        head_dim: usize,
        count: usize,
        packed: &mut [f32],
    ) = pack_keys_body
}

#[inline(always)]
fn pack_keys_body<S: Simd>(
    s: S,
    (k, stride): (&[f32], usize),
    head_dim: usize,
    count: usize,
    packed: &mut [f32],
) {
    for first in (0..count).step_by(ROWS) {
        let lines = &mut packed[first * head_dim..];
        let rows: [&[f32]; ROWS] = std::array::from_fn(|i| {
            let start = (first + i).min(count - 1) * stride;
            &k[start..start + head_dim]
        });
        let eights = rows.map(|row| row.as_chunks::<LANES>().0);
        for index in 0..head_dim / LANES {
            let mut block = [s.splat(0.0); LANES];
            for (vector, eights) in block.iter_mut().zip(eights) {
                *vector = s.load(&eights[index]);
            }
            // The last two lanes of each are overwritten by the next.
            for (j, line) in s.transpose(block).into_iter().enumerate() {
                write(s, [line], &mut lines[(index * LANES + j) * ROWS..]);
            }
        }
        for channel in head_dim / LANES * LANES..head_dim {
            for (i, row) in rows.iter().enumerate() {
                lines[channel * ROWS + i] = row[channel];
            }
        }
    }
}

/// Copies six channels of each key, then the next six, see [`values_len`].
pub(super) fn pack_values(
    (v, stride): (&[f32], usize),
    head_dim: usize,
    count: usize,
    packed: &mut [f32],
) {
    let (sixes, _) = packed.as_chunks_mut::<ROWS>();
    for key in 0..count {
        let row = &v[key * stride..key * stride + head_dim];
        let (whole, tail) = row.as_chunks::<ROWS>();
        for (index, channels) in whole.iter().enumerate() {
            sixes[index * count + key] = *channels;
        }
        if !tail.is_empty() {
            let last = &mut sixes[whole.len() * count + key];
            *last = [0.0; ROWS];
            last[..tail.len()].copy_from_slice(tail);
        }
    }
}

per_isa! {
    /// Fills lines, one for each channel, with `scale` times the first `lanes` rows of `q`.
    pub(super) fn pack_lines(
        q: (&[f32], usize),
        head_dim: usize,
        lanes: usize,
        scale: f32,
        lines: &mut [f32],
    ) = pack_lines_body
}

#[inline(always)]
fn pack_lines_body<S: Simd>(
    s: S,
    (q, stride): (&[f32], usize),
    head_dim: usize,
    lanes: usize,
    scale: f32,
    lines: &mut [f32],
) {
    let factor = s.splat(scale);
    let (lines, _) = lines.as_chunks_mut::<QUERIES>();
    for lane in (0..lanes).step_by(LANES) {
        // Lanes without a query repeat the last one.
        let rows: [&[f32]; LANES] = std::array::from_fn(|j| {
            let start = (lane + j).min(lanes - 1) * stride;
            &q[start..start + head_dim]
        });
        let eights = rows.map(|row| row.as_chunks::<LANES>().0);
        for index in 0..head_dim / LANES {
            let mut block = [s.splat(0.0); LANES];
            for (vector, eights) in block.iter_mut().zip(eights) {
                *vector = s.mul(s.load(&eights[index]), factor);
            }
            for (j, line) in s.transpose(block).into_iter().enumerate() {
                write(s, [line], &mut lines[index * LANES + j][lane..]);
            }
        }
        for channel in head_dim / LANES * LANES..head_dim {
            for (j, row) in rows.iter().enumerate() {
                lines[channel][lane + j] = row[channel] * scale;
            }
        }
    }
}

/// A block of keys and values, and how a panel looks at it.
pub(super) struct Block<'a> {
    pub(super) keys: &'a [f32],
    pub(super) values: &'a [f32],
    /// Keys that were packed.
    pub(super) stride: usize,
    /// Keys that some query of the panel sees.
    pub(super) count: usize,
    pub(super) head_dim: usize,
    /// Queries of the panel.
    pub(super) lanes: usize,
    /// Whether nothing was seen before.
    pub(super) first: bool,
    /// Causal: the positions of the panel's first query and of the block's first key.
    pub(super) causal: Option<(usize, usize)>,
}

per_isa! {
    /// Takes a panel through a block of keys; `weights` is scratch.
    pub(super) fn attend(block: &Block<'_>, weights: &mut [f32], panel: &mut [f32]) = attend_body
}

#[inline(always)]
fn attend_body<S: Simd>(s: S, block: &Block<'_>, weights: &mut [f32], panel: &mut [f32]) {
    let mut panel = Panel::of(panel, block.head_dim);
    assert!(0 < block.count && block.count <= block.stride, "keys of a block");
    if block.lanes <= LANES {
        attend_vectors::<S, 1>(s, block, weights, &mut panel);
    } else {
        attend_vectors::<S, 2>(s, block, weights, &mut panel);
    }
}

/// The first vectors of each line.
#[inline(always)]
fn attend_vectors<S: Simd, const VECTORS: usize>(
    s: S,
    block: &Block<'_>,
    weights: &mut [f32],
    panel: &mut Panel<'_>,
) {
    let mut before = [s.splat(f32::MIN); VECTORS];
    if !block.first {
        before = read(s, panel.greatest);
    }
    let mut greatest = before;
    let keys = (block.keys, block.count);
    multiply_rows(s, keys, block.head_dim, panel.queries, weights, Some(&mut greatest));
    let (lines, _) = weights.as_chunks_mut::<QUERIES>();
    if let Some((query, first)) = block.causal
        && first + block.count > query + 1
    {
        greatest = before;
        for (key, line) in (first..).zip(&mut lines[..block.count]) {
            line[..key.saturating_sub(query).min(QUERIES)].fill(f32::NEG_INFINITY);
            let scores: [S::V; VECTORS] = read(s, line);
            for (greatest, score) in greatest.iter_mut().zip(scores) {
                *greatest = s.max(score, *greatest);
            }
        }
    }
    let mut shrink = None;
    let mut totals = [s.splat(0.0); VECTORS];
    if !block.first {
        let mut factors: [S::V; VECTORS] = read(s, panel.totals);
        for j in 0..VECTORS {
            let factor = exp2(s, s.sub(before[j], greatest[j]));
            totals[j] = s.mul(factors[j], factor);
            factors[j] = factor;
        }
        shrink = Some(factors);
    }
    for line in &mut lines[..block.count] {
        let scores: [S::V; VECTORS] = read(s, line);
        let mut powers = scores;
        for j in 0..VECTORS {
            powers[j] = exp2(s, s.sub(scores[j], greatest[j]));
            totals[j] = s.add(totals[j], powers[j]);
        }
        write(s, powers, line);
    }
    write(s, greatest, panel.greatest);
    write(s, totals, panel.totals);
    let values = (block.values, block.stride, block.count);
    add_columns(s, values, block.head_dim, weights, panel.results, shrink);
}

/// `out[row] = Σ rows[row][channel] · lines[channel]` for the first `count` rows, packed as by
/// [`pack_keys`]; raises `greatest` to what it wrote.
#[inline(always)]
pub(super) fn multiply_rows<S: Simd, const VECTORS: usize>(
    s: S,
    (rows, count): (&[f32], usize),
    head_dim: usize,
    lines: &[f32],
    out: &mut [f32],
    mut greatest: Option<&mut [S::V; VECTORS]>,
) {
    assert!(rows.len() >= keys_len(count, head_dim), "rows of a panel's product");
    assert!(lines.len() >= head_dim * QUERIES, "lines of a panel's product");
    for channel in (0..head_dim.max(1)).step_by(DEPTH) {
        let depth = DEPTH.min(head_dim - channel);
        let before = (channel > 0).then(|| [s.splat(1.0); VECTORS]);
        for first in (0..count).step_by(ROWS) {
            let out = &mut out[first * QUERIES..];
            let last = channel + depth == head_dim;
            let greatest = if last { greatest.as_deref_mut() } else { None };
            // SAFETY: rows are packed to a multiple of six; the assertions have seen that all
            // are there.
            unsafe {
                let rows = rows.as_ptr().add(first * head_dim + channel * ROWS);
                let product = Product { rows, lines: lines.as_ptr().add(channel * QUERIES), depth };
                product.run(s, count - first, before, out, greatest);
            }
        }
    }
}

/// `out[channel] = before · out[channel] + Σ columns[channel][token] · lines[token]` for the
/// first `count` of `stride` tokens, packed as by [`pack_values`].
#[inline(always)]
pub(super) fn add_columns<S: Simd, const VECTORS: usize>(
    s: S,
    (columns, stride, count): (&[f32], usize, usize),
    head_dim: usize,
    lines: &[f32],
    out: &mut [f32],
    before: Option<[S::V; VECTORS]>,
) {
    assert!(columns.len() >= values_len(stride, head_dim), "columns of a panel's product");
    assert!(count <= stride && lines.len() >= count * QUERIES, "lines of a panel's product");
    for first in (0..head_dim).step_by(ROWS) {
        let out = &mut out[first * QUERIES..];
        // SAFETY: channels are packed to a multiple of six; the assertions have seen that all
        // are there.
        unsafe {
            let rows = columns.as_ptr().add(first * stride);
            let product = Product { rows, lines: lines.as_ptr(), depth: count };
            product.run(s, head_dim - first, before, out, None);
        }
    }
}

/// Six packed rows times lines.
#[derive(Clone, Copy)]
struct Product {
    /// Numbers of the six rows in turn.
    rows: *const f32,
    lines: *const f32,
    depth: usize,
}

impl Product {
    /// Writes the first `height` of the rows to `out`, added to what was there times `before`,
    /// and where asked for raises `greatest` to what it wrote.
    ///
    /// It may take more rows than asked for, up to six.
    ///
    /// # Safety
    /// All rows and lines must be readable.
    #[inline(always)]
    unsafe fn run<S: Simd, const VECTORS: usize>(
        self,
        s: S,
        height: usize,
        before: Option<[S::V; VECTORS]>,
        out: &mut [f32],
        mut greatest: Option<&mut [S::V; VECTORS]>,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            if S::TILE_ROWS < ROWS {
                // Few registers.
                for first in (0..height.min(ROWS)).step_by(2) {
                    let out = &mut out[first * QUERIES..];
                    let rows = self.rows.add(first);
                    let greatest = greatest.as_deref_mut();
                    Self { rows, ..self }.tile::<S, 2, VECTORS>(s, before, out, greatest);
                }
            } else if height > 4 {
                self.tile::<S, 6, VECTORS>(s, before, out, greatest);
            } else if height > 2 {
                self.tile::<S, 4, VECTORS>(s, before, out, greatest);
            } else {
                self.tile::<S, 2, VECTORS>(s, before, out, greatest);
            }
        }
    }

    /// # Safety
    /// As [`Self::run`], for `HEIGHT` rows.
    #[inline(always)]
    unsafe fn tile<S: Simd, const HEIGHT: usize, const VECTORS: usize>(
        self,
        s: S,
        before: Option<[S::V; VECTORS]>,
        out: &mut [f32],
        greatest: Option<&mut [S::V; VECTORS]>,
    ) {
        let (out, _) = out.as_chunks_mut::<QUERIES>();
        let out = out.first_chunk_mut::<HEIGHT>().expect("lines are a multiple of six");
        let mut sums = [[s.splat(0.0); VECTORS]; HEIGHT];
        if let Some(factors) = before {
            for (sums, line) in sums.iter_mut().zip(&*out) {
                *sums = read(s, line);
                for (sum, factor) in sums.iter_mut().zip(factors) {
                    *sum = s.mul(*sum, factor);
                }
            }
        }
        // SAFETY: all that is read is there, by the caller's promise.
        unsafe {
            let mut k = 0;
            while k + 4 <= self.depth {
                for ahead in 0..4 {
                    self.step(s, k + ahead, &mut sums);
                }
                k += 4;
            }
            while k < self.depth {
                self.step(s, k, &mut sums);
                k += 1;
            }
        }
        for (sums, line) in sums.into_iter().zip(out) {
            write(s, sums, line);
        }
        if let Some(greatest) = greatest {
            for sums in sums {
                for (greatest, sum) in greatest.iter_mut().zip(sums) {
                    *greatest = s.max(sum, *greatest);
                }
            }
        }
    }

    /// Adds the products of number `k` of each row.
    ///
    /// # Safety
    /// These numbers must be readable.
    #[inline(always)]
    unsafe fn step<S: Simd, const HEIGHT: usize, const VECTORS: usize>(
        self,
        s: S,
        k: usize,
        sums: &mut [[S::V; VECTORS]; HEIGHT],
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let line = self.lines.add(k * QUERIES);
            let mut vectors = [s.splat(0.0); VECTORS];
            for (j, vector) in vectors.iter_mut().enumerate() {
                *vector = s.load(&*line.add(j * LANES).cast());
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let x = s.splat(*self.rows.add(k * ROWS + i));
                for (sum, numbers) in sums.iter_mut().zip(vectors) {
                    *sum = s.mul_add(x, numbers, *sum);
                }
            }
        }
    }
}

per_isa! {
    /// Divides a panel's results by their sums of weights and stores them, the logarithms of
    /// the sums as well where asked for.
    ///
    /// # Safety
    /// The rows in `out` and the numbers in `log_sums` must be the caller's.
    fn store_panel(
        shape: AttentionShape,
        lanes: usize,
        panel: &mut [f32],
        out: (Shared, usize),
        log_sums: Option<(Shared, usize)>,
    ) = store_panel_body
}

/// See [`store_panel`].
///
/// # Safety
/// The rows in `out` and the numbers in `log_sums` must be the caller's.
pub(super) unsafe fn finish_panel(
    isa: crate::isa::Isa,
    shape: AttentionShape,
    lanes: usize,
    panel: &mut [f32],
    out: (Shared, usize),
    log_sums: Option<(Shared, usize)>,
) {
    store_panel(isa, shape, lanes, panel, out, log_sums);
}

/// Only [`finish_panel`] calls this, under its contract.
#[inline(always)]
fn store_panel_body<S: Simd>(
    s: S,
    shape: AttentionShape,
    lanes: usize,
    panel: &mut [f32],
    (out, start): (Shared, usize),
    log_sums: Option<(Shared, usize)>,
) {
    let AttentionShape { heads, head_dim, .. } = shape;
    let panel = Panel::of(panel, head_dim);
    let mut factors = [0.0; QUERIES];
    for (factor, total) in factors.iter_mut().zip(&*panel.totals).take(lanes) {
        *factor = 1.0 / total;
    }
    let out = Rows { memory: out, start, stride: heads * head_dim, head_dim, count: lanes };
    // SAFETY: the caller's promise.
    unsafe { store_lines(s, panel.results, &factors, out) };
    if let Some((memory, start)) = log_sums {
        // SAFETY: the caller's promise.
        let log_sums = unsafe { memory.part(start..start + lanes) };
        for ((log_sum, greatest), total) in
            log_sums.iter_mut().zip(&*panel.greatest).zip(&*panel.totals)
        {
            *log_sum = (greatest + total.log2()) * std::f32::consts::LN_2;
        }
    }
}

/// Rows of a head in an output.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub(super) memory: Shared,
    pub(super) start: usize,
    pub(super) stride: usize,
    pub(super) head_dim: usize,
    /// At most [`QUERIES`].
    pub(super) count: usize,
}

/// Stores lines as rows, each times its factor.
///
/// # Safety
/// The rows must be the caller's.
#[inline(always)]
pub(super) unsafe fn store_lines<S: Simd>(
    s: S,
    lines: &[f32],
    factors: &[f32; QUERIES],
    out: Rows,
) {
    let (lines, _) = lines.as_chunks::<QUERIES>();
    for lane in (0..out.count).step_by(LANES) {
        let [factor] = read(s, &factors[lane..]);
        let lanes = lane..out.count.min(lane + LANES);
        for index in 0..out.head_dim / LANES {
            let channel = index * LANES;
            let mut block = [s.splat(0.0); LANES];
            for (vector, line) in block.iter_mut().zip(&lines[channel..]) {
                let [numbers] = read(s, &line[lane..]);
                *vector = s.mul(numbers, factor);
            }
            for (lane, row) in lanes.clone().zip(s.transpose(block)) {
                let start = out.start + lane * out.stride + channel;
                // SAFETY: the caller's promise.
                write(s, [row], unsafe { out.memory.part(start..start + LANES) });
            }
        }
        let tail = out.head_dim / LANES * LANES..out.head_dim;
        for (channel, line) in tail.clone().zip(&lines[tail]) {
            for lane in lanes.clone() {
                let at = out.start + lane * out.stride + channel;
                // SAFETY: the caller's promise.
                let number = unsafe { out.memory.part(at..at + 1) };
                number[0] = line[lane] * factors[lane];
            }
        }
    }
}

/// The first vectors of a line.
#[inline(always)]
pub(super) fn read<S: Simd, const VECTORS: usize>(s: S, line: &[f32]) -> [S::V; VECTORS] {
    let (eights, _) = line.as_chunks::<LANES>();
    let mut vectors = [s.splat(0.0); VECTORS];
    for (vector, eight) in vectors.iter_mut().zip(&eights[..VECTORS]) {
        *vector = s.load(eight);
    }
    vectors
}

#[inline(always)]
pub(super) fn write<S: Simd, const VECTORS: usize>(
    s: S,
    numbers: [S::V; VECTORS],
    line: &mut [f32],
) {
    let (vectors, _) = line.as_chunks_mut::<LANES>();
    for (vector, numbers) in vectors[..VECTORS].iter_mut().zip(numbers) {
        s.store(numbers, vector);
    }
}
