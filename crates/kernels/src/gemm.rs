//! Matrix multiplication: `C = A · Bᵀ`, `A` activations, `B` a frozen weight.
//!
//! The output is cut into tasks (some rows × some columns). A task walks the depth in
//! blocks: it packs the weight's block into panels, then multiplies row block by row block,
//! with tiles of six rows × sixteen columns held in registers. What `A` is (rows as they
//! are, or the patches of a convolution) and what `B` is are the traits [`Left`] and
//! [`Right`].
//!
//! **Order of summation.** An output is the sum, over depth blocks in order, of sums over
//! the block's inputs in order. Blocks depend on the layer only, never on the number of
//! rows, the tiling or the threads, so neither does any bit of the result.
//!
//! Loop structure: Goto and van de Geijn 2008, as in BLIS.

use std::ops::Range;

use crate::buffer::{Shared, with_scratch};
use crate::isa::{Isa, per_isa};
use crate::pack::{PANEL, packed_len};
use crate::parallel;
use crate::simd::{LANES, Simd, prefetch_far};

/// Longest depth block. A panel of it (24 KB) is read from the first-level cache.
const DEPTH_BLOCK: usize = 384;
/// Rows multiplied before the next ones are fetched: with [`DEPTH_BLOCK`], 147 KB.
const ROW_BLOCK: usize = 96;
/// Most rows of a task: few, so that operands and sums stay in cache, but enough to make packing
/// the weight cheap.
pub(crate) const TASK_ROWS: usize = 192;
/// Fewer rows are not worth packing the columns' weights for once more.
const LEAST_ROWS: usize = 48;
/// Most columns of a task.
pub(crate) const TASK_COLUMNS: usize = 320;

/// How the depth of a product is cut into blocks.
///
/// The depth is `units × repeat`; a block takes `step` units, each with all its repeats. In
/// a convolution a unit is an input channel and it repeats for every tap of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Depth {
    pub(crate) units: usize,
    pub(crate) step: usize,
    pub(crate) repeat: usize,
}

impl Depth {
    /// Blocks of nearly equal length, a multiple of eight units where there are that many.
    pub(crate) fn new(units: usize, repeat: usize) -> Self {
        let most = (DEPTH_BLOCK / repeat / LANES * LANES).max(LANES);
        Self { repeat, ..Self::in_blocks(units, most, LANES) }
    }

    /// Blocks of nearly equal length, `most` at most and a multiple of `multiple`, of units that
    /// do not repeat.
    pub(crate) fn in_blocks(units: usize, most: usize, multiple: usize) -> Self {
        let count = units.div_ceil(most).max(1);
        let step = units.div_ceil(count).next_multiple_of(multiple).max(multiple);
        Self { units, step, repeat: 1 }
    }

    /// The units of each block, in order. One empty block where there is no depth at all.
    pub(crate) fn blocks(self) -> impl Iterator<Item = Range<usize>> {
        let count = self.units.div_ceil(self.step).max(1);
        (0..count).map(move |i| i * self.step..self.units.min((i + 1) * self.step))
    }

    /// The longest block, in inputs.
    pub(crate) fn longest(self) -> usize {
        self.units.min(self.step) * self.repeat
    }

    /// Inputs in all.
    pub(crate) fn total(self) -> usize {
        self.units * self.repeat
    }
}

/// The activations of a product.
pub(crate) trait Left: Sync {
    /// Rows `rows` of the depth block `units`, and how far apart they lie.
    ///
    /// They are copied to `scratch` (rows side by side) unless they can be read where they
    /// are. `reads` says how many panels will be multiplied with them.
    fn rows<'a>(
        &'a self,
        rows: Range<usize>,
        units: Range<usize>,
        reads: usize,
        scratch: &'a mut [f32],
    ) -> (&'a [f32], usize);

    /// Where `rows` will read, if it is known and not too far from memory's order.
    fn next_rows(&self, _rows: Range<usize>, _units: &Range<usize>) -> NextRows<'_> {
        NextRows::default()
    }
}

/// The weight of a product.
pub(crate) trait Right: Sync {
    /// Packs `columns` of the depth block `units`; see [`crate::pack`].
    fn pack(&self, isa: Isa, columns: Range<usize>, units: Range<usize>, packed: &mut [f32]);
}

/// Cuts `rows × columns` into tasks of whole row blocks and panels.
pub(crate) struct Grid {
    rows: usize,
    columns: usize,
    row_step: usize,
    column_step: usize,
    work: usize,
}

impl Grid {
    pub(crate) fn new(rows: usize, columns: usize, depth: usize) -> Self {
        Self::with_limits(rows, columns, depth, TASK_ROWS, TASK_COLUMNS)
    }

    pub(crate) fn with_limits(
        rows: usize,
        columns: usize,
        depth: usize,
        most_rows: usize,
        most_columns: usize,
    ) -> Self {
        let work = rows.saturating_mul(columns).saturating_mul(depth);
        let wanted = parallel::wanted_tasks(work);
        // A few rows too many: narrower tasks instead, and the weight is packed once.
        let (most_rows, most_columns) = if rows > most_rows && rows <= most_rows + most_rows / 2 {
            (rows, most_columns / 2)
        } else {
            (most_rows, most_columns)
        };
        let mut row_parts = rows.div_ceil(most_rows).max(1);
        let mut column_parts = columns.div_ceil(most_columns).max(1);
        if row_parts * column_parts < wanted {
            // More rows first: a task packs its columns' weights, however few rows it has.
            let most = rows.div_ceil(TASK_ROWS);
            row_parts = row_parts.max(wanted.div_ceil(column_parts).min(most));
            column_parts = column_parts.max(wanted.div_ceil(row_parts).min(columns.div_ceil(64)));
            // A narrow product has few parts: no thread should wait for another's last one.
            if row_parts * column_parts < wanted {
                let even = row_parts.next_multiple_of(rayon::current_num_threads());
                row_parts = even.min(rows.div_ceil(LEAST_ROWS)).max(row_parts);
            }
        }
        Self {
            rows,
            columns,
            row_step: rows.div_ceil(row_parts).next_multiple_of(6).max(6),
            column_step: columns.div_ceil(column_parts).next_multiple_of(PANEL).max(PANEL),
            work,
        }
    }

    /// Runs `task` for each part of the grid.
    pub(crate) fn for_each(&self, task: impl Fn(Range<usize>, Range<usize>) + Send + Sync) {
        let down = self.rows.div_ceil(self.row_step);
        let across = self.columns.div_ceil(self.column_step);
        parallel::for_each(down * across, self.work, |index| {
            let (i, j) = (index % down, index / down);
            let rows = i * self.row_step..self.rows.min((i + 1) * self.row_step);
            let columns = j * self.column_step..self.columns.min((j + 1) * self.column_step);
            task(rows, columns);
        });
    }
}

/// Where a task's product goes: `C[i, j]` is number `start + i · stride + j` of `memory`.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub(crate) memory: Shared,
    pub(crate) start: usize,
    pub(crate) stride: usize,
    /// Adds the product to what is there.
    pub(crate) add: bool,
}

/// Computes `rows × columns` of the product into `target`, on this thread.
///
/// `done` is called with each block of rows (counted from the first row of the task) as soon
/// as it is complete and still in cache.
///
/// # Safety
/// Nobody else may touch that part of the target's memory meanwhile.
pub(crate) unsafe fn multiply<L: Left, R: Right>(
    isa: Isa,
    (left, right): (&L, &R),
    depth: Depth,
    rows: Range<usize>,
    columns: Range<usize>,
    target: Target,
    mut done: impl FnMut(Range<usize>),
) {
    let longest = depth.longest();
    let panels_len = packed_len(columns.len(), longest);
    let rows_len = ROW_BLOCK.min(rows.len()) * longest;
    with_scratch([panels_len, rows_len], |[packed, copied]| {
        let reads = columns.len().div_ceil(PANEL);
        for units in depth.blocks() {
            let inputs = units.len() * depth.repeat;
            right.pack(isa, columns.clone(), units.clone(), packed);
            let mut row = rows.start;
            while row < rows.end {
                let block = row..rows.end.min(row + ROW_BLOCK);
                let (a, a_stride) = left.rows(block.clone(), units.clone(), reads, copied);
                let next = left.next_rows(block.end..rows.end.min(block.end + ROW_BLOCK), &units);
                let local = row - rows.start..block.end - rows.start;
                let c = target.start + local.start * target.stride;
                let product = Product {
                    a,
                    a_stride,
                    rows: block.len(),
                    panels: packed,
                    depth: inputs,
                    columns: columns.len(),
                    c: target.memory.at(c),
                    c_stride: target.stride,
                    accumulate: target.add || units.start > 0,
                    next,
                };
                product.check(target.memory.after(c));
                // SAFETY: `check` has seen that all of it is in bounds; ours alone by the caller.
                unsafe { multiply_block(isa, &product) };
                if units.end == depth.units {
                    done(local);
                }
                row = block.end;
            }
        }
    });
}

/// Rows times packed panels.
pub(crate) struct Product<'a> {
    /// Row `i` starts at `i · a_stride`.
    pub(crate) a: &'a [f32],
    pub(crate) a_stride: usize,
    pub(crate) rows: usize,
    pub(crate) panels: &'a [f32],
    pub(crate) depth: usize,
    pub(crate) columns: usize,
    /// Row `i` of the result starts at `i · c_stride`.
    pub(crate) c: *mut f32,
    pub(crate) c_stride: usize,
    /// Add to what is there, or replace it.
    pub(crate) accumulate: bool,
    /// What will be read next, to be fetched meanwhile.
    pub(crate) next: NextRows<'a>,
}

/// Rows that the next product will read: their numbers lie at `start` and every `stride` on.
#[derive(Clone, Copy, Default)]
pub(crate) struct NextRows<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) start: usize,
    pub(crate) stride: usize,
    pub(crate) rows: usize,
    pub(crate) depth: usize,
}

impl NextRows<'_> {
    /// Asks for the lines that belong to parts `first` and the `count` from there on, of `parts`.
    #[inline(always)]
    fn prefetch(&self, first: usize, count: usize, parts: usize) {
        let lines = self.depth.div_ceil(LINE);
        let all = self.rows * lines;
        for line in first * all / parts..(first + count) * all / parts {
            let number = self.start + line / lines * self.stride + line % lines * LINE;
            prefetch_far(self.x.as_ptr().wrapping_add(number));
        }
    }
}

/// Numbers of a cache line.
const LINE: usize = 16;

impl Product<'_> {
    /// Panics unless operands and result (`room` numbers at `c`) are large enough.
    pub(crate) fn check(&self, room: usize) {
        if self.rows == 0 || self.columns == 0 {
            return;
        }
        assert!((self.rows - 1) * self.a_stride + self.depth <= self.a.len(), "rows of a product");
        assert!(packed_len(self.columns, self.depth) <= self.panels.len(), "panels of a product");
        assert!((self.rows - 1) * self.c_stride + self.columns <= room, "result of a product");
    }
}

/// Multiplies, on this thread.
///
/// # Safety
/// [`Product::check`] must pass for memory at `c` that nobody else touches meanwhile.
pub(crate) unsafe fn multiply_block(isa: Isa, product: &Product<'_>) {
    per_isa! {
        fn run(product: &Product<'_>) = multiply_body
    }
    run(isa, product);
}

/// Only [`multiply_block`] calls this, under its contract.
#[inline(always)]
fn multiply_body<S: Simd>(s: S, p: &Product<'_>) {
    let panels = p.columns.div_ceil(PANEL);
    for first in (0..p.columns).step_by(PANEL) {
        let width = PANEL.min(p.columns - first);
        let panel = &p.panels[first * p.depth..];
        let mut row = 0;
        while row < p.rows {
            let height = S::TILE_ROWS.min(p.rows - row);
            p.next.prefetch(first / PANEL * p.rows + row, height, panels * p.rows);
            let a = &p.a[row * p.a_stride..];
            // SAFETY: `row` and `first` are inside, see `multiply_block`.
            unsafe {
                let c = p.c.add(row * p.c_stride + first);
                if width == PANEL {
                    let tile = Tile { a, panel, c, c_stride: p.c_stride, ..Tile::of(p) };
                    tile.run::<S, 2>(s, height);
                } else {
                    let mut whole = [0.0_f32; 6 * PANEL];
                    let tile = Tile { a, panel, c: whole.as_mut_ptr(), ..Tile::of(p) };
                    let tile = Tile { c_stride: PANEL, accumulate: false, ..tile };
                    if width <= LANES {
                        tile.run::<S, 1>(s, height);
                    } else {
                        tile.run::<S, 2>(s, height);
                    }
                    for (i, sums) in whole.chunks_exact(PANEL).take(height).enumerate() {
                        for (j, sum) in sums[..width].iter().enumerate() {
                            let c = c.add(i * p.c_stride + j);
                            *c = if p.accumulate { *c + sum } else { *sum };
                        }
                    }
                }
            }
            row += height;
        }
    }
}

/// One tile of a product: up to six rows, one panel.
#[derive(Clone, Copy)]
struct Tile<'a> {
    a: &'a [f32],
    a_stride: usize,
    panel: &'a [f32],
    depth: usize,
    c: *mut f32,
    c_stride: usize,
    accumulate: bool,
}

impl<'a> Tile<'a> {
    #[inline(always)]
    fn of(p: &'a Product<'a>) -> Self {
        Self {
            a: p.a,
            a_stride: p.a_stride,
            panel: p.panels,
            depth: p.depth,
            c: p.c,
            c_stride: p.c_stride,
            accumulate: p.accumulate,
        }
    }

    /// # Safety
    /// `a` holds `height` (1 to 6) rows, `panel` a panel, `c` is ours for `height` rows of
    /// `VECTORS` vectors.
    #[inline(always)]
    unsafe fn run<S: Simd, const VECTORS: usize>(&self, s: S, height: usize) {
        // SAFETY: the caller's promise, passed on.
        unsafe {
            match height {
                6 => self.rows::<S, 6, VECTORS>(s),
                5 => self.rows::<S, 5, VECTORS>(s),
                4 => self.rows::<S, 4, VECTORS>(s),
                3 => self.rows::<S, 3, VECTORS>(s),
                2 => self.rows::<S, 2, VECTORS>(s),
                _ => self.rows::<S, 1, VECTORS>(s),
            }
        }
    }

    /// # Safety
    /// As [`Self::run`], for `ROWS` rows.
    #[inline(always)]
    unsafe fn rows<S: Simd, const ROWS: usize, const VECTORS: usize>(&self, s: S) {
        let mut sums = [[s.splat(0.0); VECTORS]; ROWS];
        // SAFETY: row `i` lies inside `a` by the caller's promise.
        let rows: [*const f32; ROWS] =
            std::array::from_fn(|i| unsafe { self.a.as_ptr().add(i * self.a_stride) });
        let mut panel = self.panel.as_ptr();
        let mut k = 0;
        // SAFETY: `k` and the line of the panel stay below the depth.
        unsafe {
            // Four at a time, or addresses cost as much as the arithmetic hides.
            while k + 4 <= self.depth {
                for ahead in 0..4 {
                    step(s, &rows, k + ahead, panel.add(ahead * PANEL), &mut sums);
                }
                panel = panel.add(4 * PANEL);
                k += 4;
            }
            while k < self.depth {
                step(s, &rows, k, panel, &mut sums);
                panel = panel.add(PANEL);
                k += 1;
            }
        }
        for (i, sums) in sums.into_iter().enumerate() {
            for (j, sum) in sums.into_iter().enumerate() {
                // SAFETY: inside `c` by the caller's promise; one vector at a time is referenced.
                let c: &mut [f32; LANES] =
                    unsafe { &mut *self.c.add(i * self.c_stride + j * LANES).cast() };
                let sum = if self.accumulate { s.add(s.load(c), sum) } else { sum };
                s.store(sum, c);
            }
        }
    }
}

/// Adds the products of one input to a tile's sums.
///
/// # Safety
/// Number `k` of each row, and the line of the panel, must be readable.
#[inline(always)]
unsafe fn step<S: Simd, const ROWS: usize, const VECTORS: usize>(
    s: S,
    rows: &[*const f32; ROWS],
    k: usize,
    line: *const f32,
    sums: &mut [[S::V; VECTORS]; ROWS],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut b = [s.splat(0.0); VECTORS];
        for (j, b) in b.iter_mut().enumerate() {
            *b = s.load(&*line.add(j * LANES).cast());
        }
        for (row, sums) in rows.iter().zip(sums) {
            let x = s.splat(*row.add(k));
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum = s.mul_add(x, b, *sum);
            }
        }
    }
}

/// Activations that are rows in memory already.
pub(crate) struct Dense<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) width: usize,
}

impl Left for Dense<'_> {
    fn rows<'a>(
        &'a self,
        rows: Range<usize>,
        units: Range<usize>,
        reads: usize,
        scratch: &'a mut [f32],
    ) -> (&'a [f32], usize) {
        let depth = units.len();
        // Rows whole pages apart fall on the same cache sets; copied they lie side by side.
        let collide = (self.width * size_of::<f32>()).is_multiple_of(4096);
        if depth == self.width || !collide || reads < 4 || rows.len() < 6 {
            return (&self.x[rows.start * self.width + units.start..], self.width);
        }
        for (row, copy) in rows.zip(scratch.chunks_exact_mut(depth)) {
            let start = row * self.width + units.start;
            copy.copy_from_slice(&self.x[start..start + depth]);
        }
        (scratch, depth)
    }

    fn next_rows(&self, rows: Range<usize>, units: &Range<usize>) -> NextRows<'_> {
        let start = rows.start * self.width + units.start;
        NextRows { x: self.x, start, stride: self.width, rows: rows.len(), depth: units.len() }
    }
}
