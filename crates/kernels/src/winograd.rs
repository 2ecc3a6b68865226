//! 3×3 convolutions by Winograd's minimal filtering, F(4×4, 3×3).
//!
//! The output is cut into tiles of 4×4 pixels. A tile's 6×6 inputs become 36 components
//! (`Bᵀ d B`), so does every filter (`G g Gᵀ`); component by component the layer is then a product
//! of tiles and filters, and a tile's 36 sums become its 16 pixels (`Aᵀ m A`): a quarter of the
//! multiplications of the plain way.
//!
//! Tiles are worked in groups of neighbours. A group's pixels are copied once, where padding,
//! upsampling and a folded norm happen, then transformed. Filters are transformed for the whole
//! call where many groups use them, else by the task that multiplies them, so that small images
//! with wide layers pay no memory for them.
//!
//! Which pixels share a tile depends on their place in the image alone, and sums run over the
//! channels in blocks of the layer alone, so an image gets the same bits in any company.
//!
//! A doubled image has equal neighbours; with other points 25 components suffice for it.
//!
//! Winograd 1980; Lavin and Gray 2016, arXiv:1509.09308. The points 0, 1, −1, ½, −2 keep f32's
//! rounding a third smaller than the usual 0, ±1, ±2 do.

#![expect(clippy::needless_range_loop, reason = "the indices are those of the formulas' matrices")]

mod points;

use std::ops::Range;

use self::points::{Doubled, Plain, Points};
use crate::buffer::{Output, Shared, with_scratch};
use crate::conv::{Conv, Fold};
use crate::gemm::{Depth, NextRows, Product, multiply_block};
use crate::isa::{Isa, per_isa};
use crate::linear::Finish;
use crate::math::{Activation, apply};
use crate::pack::{PANEL, Rows, pack};
use crate::parallel;
use crate::simd::{LANES, Simd};

/// Side of a tile in the output.
pub(crate) const TILE: usize = 4;
/// Side of what it reads.
const PATCH: usize = TILE + 2;

/// Tiles of a group, and how many of them side by side.
const GROUP: usize = 128;
const GROUP_WIDTH: usize = 16;
/// Channels copied and transformed together: a group's pixels stay in the second-level cache.
const CHANNELS: usize = 32;
/// Panels of outputs that a task multiplies with a component while its tiles are in cache.
const TASK_PANELS: usize = 4;
/// Up to so many groups every task transforms its own filters.
const FEW_GROUPS: usize = 3;
/// Transformed tiles in memory at once, in numbers (32 MB), unless two groups are more.
const WAVE: usize = 8 << 20;
/// Numbers between components beyond their length, or all of them would fall on one cache set.
const SKEW: usize = 16;

/// Whether a convolution is done this way. Nothing but the layer and the image's width decides,
/// so that a band of an image is done as the whole is.
pub(crate) fn is_for(conv: &Conv<'_>, channels: usize, output_width: usize) -> bool {
    conv.kernel == 3 && conv.stride == 1 && channels >= 16 && output_width >= 8
}

/// Neighbouring tiles of one image.
#[derive(Clone, Copy)]
struct Run {
    image: usize,
    /// First row and column, in tiles.
    row: usize,
    column: usize,
    height: usize,
    width: usize,
}

impl Run {
    fn tiles(&self) -> usize {
        self.height * self.width
    }
}

/// Cuts all images into groups of at most [`GROUP`] tiles.
fn groups([images, height, width]: [usize; 3]) -> Vec<Vec<Run>> {
    let (down, across) = (height.div_ceil(TILE), width.div_ceil(TILE));
    let chunk = across.div_ceil(across.div_ceil(GROUP_WIDTH));
    let rows = (GROUP / chunk).min(down);
    let rows = down.div_ceil(down.div_ceil(rows));
    let mut groups: Vec<Vec<Run>> = Vec::new();
    let mut room = 0;
    for image in 0..images {
        for row in (0..down).step_by(rows) {
            for column in (0..across).step_by(chunk) {
                let height = rows.min(down - row);
                let width = chunk.min(across - column);
                let run = Run { image, row, column, height, width };
                if room < run.tiles() {
                    groups.push(Vec::new());
                    room = GROUP.max(run.tiles());
                }
                room -= run.tiles();
                groups.last_mut().expect("pushed above").push(run);
            }
        }
    }
    groups
}

/// One convolution.
pub(crate) struct Winograd<'a> {
    pub(crate) isa: Isa,
    pub(crate) x: &'a [f32],
    pub(crate) shape: [usize; 4],
    pub(crate) conv: &'a Conv<'a>,
    pub(crate) fold: Option<&'a Fold<'a>>,
    /// The output's first row in the whole layer's: a multiple of [`TILE`].
    pub(crate) first_row: usize,
    pub(crate) output_shape: [usize; 4],
    pub(crate) finish: &'a Finish<'a>,
}

impl Winograd<'_> {
    /// Computes all of the output into `memory`.
    ///
    /// # Safety
    /// `memory` is as long as the output shape says, nobody else touches it, and where the
    /// finish accumulates it was written before.
    pub(crate) unsafe fn run(&self, memory: Shared) {
        assert_eq!(self.first_row % TILE, 0, "a band of an image starts with a tile");
        let [images, height, width, outputs] = self.output_shape;
        let groups = groups([images, height, width]);
        let few = groups.len() <= FEW_GROUPS;
        let shared = if few { Vec::new() } else { self.all_filters() };
        let longest = groups.iter().map(|group| group.iter().map(Run::tiles).sum()).max();
        let most: usize = self.layout(longest.unwrap_or(0)).len;
        let at_once = if few { groups.len() } else { (WAVE / most.max(1)).max(2) };
        let panels = outputs.div_ceil(PANEL);
        let mut tiles = Output::new(most * at_once.min(groups.len()));
        for wave in groups.chunks(at_once.max(1)) {
            let transformed = tiles.shared();
            let channels = self.shape[3].div_ceil(CHANNELS);
            let pixels: usize = wave.iter().flatten().map(Run::tiles).sum();
            parallel::for_each(wave.len() * channels, pixels * self.shape[3] * 256, |index| {
                let (group, block) = (index / channels, index % channels);
                let first = block * CHANNELS;
                let channels = first..self.shape[3].min(first + CHANNELS);
                // SAFETY: each task has its own channels of its own group.
                unsafe { self.transform_tiles(&wave[group], channels, transformed, group * most) };
            });

            // Few tasks per thread would leave one waiting.
            let step = if few { 1 } else { TASK_PANELS };
            let blocks = panels.div_ceil(step);
            let work = pixels * self.components() * self.shape[3] * outputs;
            let task = |wave: &[Vec<Run>], start: usize, block: usize| {
                let panels = block * step..panels.min((block + 1) * step);
                // SAFETY: all tiles are transformed; tasks write different groups or outputs.
                unsafe { self.multiply(wave, (transformed, start, most), &shared, panels, memory) };
            };
            if few {
                parallel::for_each(blocks, work, |block| task(wave, 0, block));
            } else {
                parallel::for_each(blocks * wave.len(), work, |index| {
                    let (group, block) = (index / blocks, index % blocks);
                    task(&wave[group..=group], group * most, block);
                });
            }
        }
    }

    /// Whether every tile reads a pixel, two pairs of equal ones, and another pixel, both ways.
    fn doubled(&self) -> bool {
        let [top, _, left, _] = self.conv.padding;
        self.conv.upsample && !top.is_multiple_of(2) && !left.is_multiple_of(2)
    }

    fn components(&self) -> usize {
        let count = if self.doubled() { Doubled::COUNT } else { Plain::COUNT };
        count * count
    }

    /// Where the components of a panel of filters lie.
    fn filter(&self) -> Filter {
        let component = self.shape[3] * PANEL + SKEW;
        Filter { component, len: component * self.components() }
    }

    /// How the channels are cut: by the layer alone.
    fn depth(&self) -> Depth {
        Depth::in_blocks(self.shape[3], 256, LANES)
    }

    /// Where the components of `tiles` tiles lie.
    fn layout(&self, tiles: usize) -> Layout {
        let component = tiles * self.shape[3].next_multiple_of(LANES) + SKEW;
        Layout { component, len: component * self.components() }
    }

    /// Transforms some channels of a group's tiles.
    ///
    /// Tiles lie at `start`: component, block of channels, tile, channel.
    ///
    /// # Safety
    /// Nobody else may touch those channels of the group meanwhile.
    unsafe fn transform_tiles(
        &self,
        group: &[Run],
        channels: Range<usize>,
        transformed: Shared,
        start: usize,
    ) {
        let tiles: usize = group.iter().map(Run::tiles).sum();
        let layout = self.layout(tiles);
        let depth = self.depth();
        let width = channels.len().next_multiple_of(LANES);
        let mut done = 0;
        for run in group {
            let (rows, columns) = (run.height * TILE + 2, run.width * TILE + 2);
            with_scratch([rows * columns * width], |[pixels]| {
                gather(self.isa, self, run, channels.clone(), pixels);
                for vector in (0..width).step_by(LANES) {
                    let channel = channels.start + vector;
                    let block = channel / depth.step;
                    let block_start = block * depth.step;
                    let block_end = (block_start + depth.step).min(depth.units);
                    let row = (block_end - block_start).next_multiple_of(LANES);
                    let first = start + tiles * block_start + done * row + channel - block_start;
                    let to = Strided {
                        memory: transformed,
                        start: first,
                        tile: row,
                        component: layout.component,
                    };
                    let size = (run.height, run.width);
                    transform_run(self.isa, size, &pixels[vector..], width, to, self.doubled());
                }
            });
            done += run.tiles();
        }
    }

    /// Multiplies groups with panels of filters and writes the pixels.
    ///
    /// # Safety
    /// The tiles are transformed, group after group `most` numbers apart from `start`; nobody
    /// else touches these outputs of these groups.
    unsafe fn multiply(
        &self,
        groups: &[Vec<Run>],
        (transformed, start, most): (Shared, usize, usize),
        shared: &[f32],
        panels: Range<usize>,
        memory: Shared,
    ) {
        let outputs = self.output_shape[3];
        let width = panels.len() * PANEL;
        let (filter, components) = (self.filter(), self.components());
        let own = if shared.is_empty() { filter.len * panels.len() } else { 0 };
        let sums_stride = GROUP * width + SKEW;
        with_scratch([own, components * sums_stride], |[own, sums]| {
            let filters = if shared.is_empty() {
                for (panel, to) in panels.clone().zip(own.chunks_exact_mut(filter.len)) {
                    self.transform_filters(panel, to);
                }
                &*own
            } else {
                &shared[panels.start * filter.len..panels.end * filter.len]
            };
            for (index, group) in groups.iter().enumerate() {
                let tiles: usize = group.iter().map(Run::tiles).sum();
                let layout = self.layout(tiles);
                let depth = self.depth();
                for component in 0..components {
                    for (local, panel) in panels.clone().enumerate() {
                        let columns = PANEL.min(outputs - panel * PANEL);
                        let filters = &filters[local * filter.len + component * filter.component..];
                        let c = component * sums_stride + local * PANEL;
                        for units in depth.blocks() {
                            let row = units.len().next_multiple_of(LANES);
                            let a = start + index * most + component * layout.component;
                            let a = a + tiles * units.start;
                            let product = Product {
                                // SAFETY: transformed, and only read from now on.
                                a: unsafe { transformed.read(a..a + tiles * row) },
                                a_stride: row,
                                rows: tiles,
                                panels: &filters[units.start * PANEL..],
                                depth: units.len(),
                                columns,
                                c: sums[c..].as_mut_ptr(),
                                c_stride: width,
                                accumulate: units.start > 0,
                                next: NextRows::default(),
                            };
                            product.check(sums.len() - c);
                            // SAFETY: `check` has seen that it fits; the sums are ours.
                            unsafe { multiply_block(self.isa, &product) };
                        }
                    }
                }
                let sums = Sums { values: sums, component: sums_stride, tile: width };
                let mut done = 0;
                for run in group {
                    // SAFETY: ours by the caller.
                    write_run(self.isa, self, run, (&sums, done), panels.clone(), memory);
                    done += run.tiles();
                }
            }
        });
    }

    /// All filters, transformed: panel after panel.
    fn all_filters(&self) -> Vec<f32> {
        let filter = self.filter();
        let panels = self.output_shape[3].div_ceil(PANEL);
        let mut filters = Output::new(panels * filter.len);
        let memory = filters.shared();
        parallel::for_each(panels, panels * filter.len * 8, |panel| {
            // SAFETY: each task has its own panel.
            let to = unsafe { memory.part(panel * filter.len..(panel + 1) * filter.len) };
            self.transform_filters(panel, to);
        });
        // SAFETY: every panel is written.
        unsafe { filters.finish() }
    }

    fn transform_filters(&self, panel: usize, to: &mut [f32]) {
        let weight = self.conv.weight;
        let channels = self.shape[3];
        let source = Rows { dtype: weight.dtype, bytes: weight.bytes, stride: weight.cols };
        let outputs = panel * PANEL..weight.rows.min((panel + 1) * PANEL);
        with_scratch([CHANNELS * 9 * PANEL], |[taps]| {
            for first in (0..channels).step_by(CHANNELS) {
                let count = CHANNELS.min(channels - first);
                let inputs = first * 9..(first + count) * 9;
                pack(self.isa, source, outputs.clone(), inputs, None, None, taps);
                let taps = &taps[..count * 9 * PANEL];
                transform_filters(self.isa, taps, first, self.filter(), to, self.doubled());
            }
        });
        for component in to.chunks_exact_mut(self.filter().component) {
            component[channels * PANEL..].fill(0.0);
        }
    }
}

/// Where components of tiles lie.
struct Layout {
    component: usize,
    len: usize,
}

/// Where the components of a panel of filters lie.
#[derive(Clone, Copy)]
struct Filter {
    component: usize,
    len: usize,
}

/// Where one vector of channels of a run's tiles goes.
#[derive(Clone, Copy)]
struct Strided {
    memory: Shared,
    start: usize,
    tile: usize,
    component: usize,
}

/// Sums of a group: component, tile, output.
struct Sums<'a> {
    values: &'a [f32],
    component: usize,
    tile: usize,
}

per_isa! {
    /// Copies the pixels that a run reads: `[rows, columns, channels]`, channels padded to whole
    /// vectors. Padding, upsampling and the folded norm happen here.
    fn gather(
        layer: &Winograd<'_>,
        run: &Run,
        channels: Range<usize>,
        pixels: &mut [f32],
    ) = gather_body
}

#[inline(always)]
fn gather_body<S: Simd>(
    s: S,
    layer: &Winograd<'_>,
    run: &Run,
    channels: Range<usize>,
    pixels: &mut [f32],
) {
    let [_, height, width, all] = layer.shape;
    let [top, _, left, _] = layer.conv.padding;
    let padded = channels.len().next_multiple_of(LANES);
    let columns = run.width * TILE + 2;
    // Where output position `at` reads, unless that is padding.
    let read = |at: usize, before: usize, size: usize| {
        let source = at.checked_sub(before)?;
        let source = if layer.conv.upsample { source / 2 } else { source };
        (source < size).then_some(source)
    };
    let mut line = [0.0_f32; CHANNELS];
    let affine = layer.fold.map(|fold| {
        let of_image = run.image * all + channels.start..run.image * all + channels.end;
        let mut factors = [0.0; CHANNELS];
        let mut offsets = [0.0; CHANNELS];
        factors[..channels.len()].copy_from_slice(&fold.factors[of_image.clone()]);
        offsets[..channels.len()].copy_from_slice(&fold.offsets[of_image]);
        (factors, offsets, fold.silu)
    });
    for (row, pixels) in pixels.chunks_exact_mut(columns * padded).enumerate() {
        let y = read(layer.first_row + run.row * TILE + row, top, height);
        for (column, pixel) in pixels.chunks_exact_mut(padded).enumerate() {
            let x = read(run.column * TILE + column, left, width);
            let (Some(y), Some(x)) = (y, x) else {
                pixel.fill(0.0);
                continue;
            };
            let at = ((run.image * height + y) * width + x) * all;
            let mut from = &layer.x[at + channels.start..at + channels.end];
            if from.len() < padded {
                line[..from.len()].copy_from_slice(from);
                from = &line[..padded];
            }
            let (from, _) = from.as_chunks::<LANES>();
            let (to, _) = pixel.as_chunks_mut::<LANES>();
            match &affine {
                None => to.copy_from_slice(from),
                Some((factors, offsets, silu)) => {
                    let (factors, _) = factors.as_chunks::<LANES>();
                    let (offsets, _) = offsets.as_chunks::<LANES>();
                    for (((from, to), factor), offset) in
                        from.iter().zip(to).zip(factors).zip(offsets)
                    {
                        let v = s.mul_add(s.load(from), s.load(factor), s.load(offset));
                        s.store(if *silu { apply(s, Activation::Silu, v) } else { v }, to);
                    }
                }
            }
        }
    }
}

per_isa! {
    /// Transforms one vector of channels of all tiles of a run, `pixel` numbers per pixel.
    fn transform_run(
        size: (usize, usize),
        pixels: &[f32],
        pixel: usize,
        to: Strided,
        doubled: bool,
    ) = transform_run_body
}

#[inline(always)]
fn transform_run_body<S: Simd>(
    s: S,
    size: (usize, usize),
    pixels: &[f32],
    pixel: usize,
    to: Strided,
    doubled: bool,
) {
    if doubled {
        transform_tiles::<S, Doubled>(s, size, pixels, pixel, to);
    } else {
        transform_tiles::<S, Plain>(s, size, pixels, pixel, to);
    }
}

#[inline(always)]
fn transform_tiles<S: Simd, P: Points>(
    s: S,
    (height, width): (usize, usize),
    pixels: &[f32],
    pixel: usize,
    to: Strided,
) {
    let components = P::COUNT * P::COUNT;
    let line = (width * TILE + 2) * pixel;
    for row in 0..height {
        for column in 0..width {
            let tile = row * width + column;
            let at = row * TILE * line + column * TILE * pixel;
            let patch = &pixels[at..];
            assert!((PATCH - 1) * (line + pixel) + LANES <= patch.len(), "patch of a tile");
            let first = to.start + tile * to.tile;
            assert!((components - 1) * to.component + LANES <= to.memory.after(first), "a tile");
            // SAFETY: both ends were checked; this vector of this tile is the caller's own.
            unsafe {
                let at = to.memory.at(first);
                transform_tile::<S, P>(s, patch.as_ptr(), line, pixel, to.component, at);
            }
        }
    }
}

/// # Safety
/// `patch` has six lines of six pixels; all components lie at `at`, `component` numbers apart.
#[inline(always)]
unsafe fn transform_tile<S: Simd, P: Points>(
    s: S,
    patch: *const f32,
    line: usize,
    pixel: usize,
    component: usize,
    at: *mut f32,
) {
    let mut columns = [[s.splat(0.0); PATCH]; PATCH];
    for x in 0..PATCH {
        let mut d = [s.splat(0.0); PATCH];
        for (y, d) in d.iter_mut().enumerate() {
            // SAFETY: by the caller.
            *d = s.load(unsafe { &*patch.add(y * line + x * pixel).cast() });
        }
        columns[x] = P::inputs(s, d);
    }
    for y in 0..P::COUNT {
        let mut d = [s.splat(0.0); PATCH];
        for (x, d) in d.iter_mut().enumerate() {
            *d = columns[x][y];
        }
        for (x, v) in P::inputs(s, d).into_iter().take(P::COUNT).enumerate() {
            // SAFETY: by the caller.
            s.store(v, unsafe { &mut *at.add((y * P::COUNT + x) * component).cast() });
        }
    }
}

per_isa! {
    /// Transforms packed taps `[channel, tap, output]` to the components of a panel.
    fn transform_filters(
        taps: &[f32],
        first: usize,
        filter: Filter,
        to: &mut [f32],
        doubled: bool,
    ) = transform_filters_body
}

#[inline(always)]
fn transform_filters_body<S: Simd>(
    s: S,
    taps: &[f32],
    first: usize,
    filter: Filter,
    to: &mut [f32],
    doubled: bool,
) {
    if doubled {
        transform_taps::<S, Doubled>(s, taps, first, filter, to);
    } else {
        transform_taps::<S, Plain>(s, taps, first, filter, to);
    }
}

#[inline(always)]
fn transform_taps<S: Simd, P: Points>(
    s: S,
    taps: &[f32],
    first: usize,
    filter: Filter,
    to: &mut [f32],
) {
    assert_eq!(to.len(), filter.len, "components of a panel");
    for (channel, taps) in taps.chunks_exact(9 * PANEL).enumerate() {
        for half in [0, LANES] {
            let mut g = [[s.splat(0.0); 3]; 3];
            for (tap, line) in taps.chunks_exact(PANEL).enumerate() {
                let eight = line[half..].first_chunk().expect("a line has two vectors");
                g[tap % 3][tap / 3] = s.load(eight);
            }
            let mut columns = [[s.splat(0.0); PATCH]; 3];
            for x in 0..3 {
                columns[x] = P::filters(s, g[x]);
            }
            for y in 0..P::COUNT {
                let row = [columns[0][y], columns[1][y], columns[2][y]];
                for (x, v) in P::filters(s, row).into_iter().take(P::COUNT).enumerate() {
                    let at =
                        (y * P::COUNT + x) * filter.component + (first + channel) * PANEL + half;
                    let eight = to[at..].first_chunk_mut().expect("inside the panel");
                    s.store(v, eight);
                }
            }
        }
    }
}

per_isa! {
    /// Turns the sums of a run into pixels and writes them; its tiles start at `sums.1`.
    fn write_run(
        layer: &Winograd<'_>,
        run: &Run,
        sums: (&Sums<'_>, usize),
        panels: Range<usize>,
        memory: Shared,
    ) = write_run_body
}

#[inline(always)]
fn write_run_body<S: Simd>(
    s: S,
    layer: &Winograd<'_>,
    run: &Run,
    sums: (&Sums<'_>, usize),
    panels: Range<usize>,
    memory: Shared,
) {
    if layer.doubled() {
        write_pixels::<S, Doubled>(s, layer, run, sums, panels, memory);
    } else {
        write_pixels::<S, Plain>(s, layer, run, sums, panels, memory);
    }
}

#[inline(always)]
fn write_pixels<S: Simd, P: Points>(
    s: S,
    layer: &Winograd<'_>,
    run: &Run,
    (sums, first): (&Sums<'_>, usize),
    panels: Range<usize>,
    memory: Shared,
) {
    let components = P::COUNT * P::COUNT;
    let [_, height, width, outputs] = layer.output_shape;
    let finish = layer.finish;
    for tile in 0..run.tiles() {
        let row = (run.row + tile / run.width) * TILE;
        let column = (run.column + tile % run.width) * TILE;
        for output in (panels.start * PANEL..outputs.min(panels.end * PANEL)).step_by(LANES) {
            let at = (first + tile) * sums.tile + output - panels.start * PANEL;
            let sums_of = &sums.values[at..];
            assert!((components - 1) * sums.component + LANES <= sums_of.len(), "sums of a tile");
            let mut columns = [[s.splat(0.0); TILE]; PATCH];
            for x in 0..P::COUNT {
                let mut m = [s.splat(0.0); PATCH];
                for (y, m) in m.iter_mut().take(P::COUNT).enumerate() {
                    let at = (y * P::COUNT + x) * sums.component;
                    // SAFETY: checked above.
                    *m = s.load(unsafe { &*sums_of.as_ptr().add(at).cast() });
                }
                columns[x] = P::outputs(s, m);
            }
            let valid = LANES.min(outputs - output);
            let added = finish.addends(s, run.image, output);
            for y in 0..TILE.min(height - row) {
                let mut m = [s.splat(0.0); PATCH];
                for (x, m) in m.iter_mut().enumerate() {
                    *m = columns[x][y];
                }
                let pixels = P::outputs(s, m).into_iter().take(width - column).enumerate();
                for (x, value) in pixels {
                    let at = ((run.image * height + row + y) * width + column + x) * outputs;
                    let at = at + output..at + output + valid;
                    // SAFETY: this task's part of the output.
                    let out = unsafe { memory.part(at.clone()) };
                    finish.store(s, s.add(value, added), at, out);
                }
            }
        }
    }
}
