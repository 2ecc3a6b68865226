//! One result: the same bits for any number of threads, and for a row, image or query alone
//! or among others.

mod common;

use common::{Random, Stored, each_isa, on_any_threads, same};
use unwrong_kernels::{
    Activation, AttentionShape, Conv, ConvEpilogue, Epilogue, Fold, GroupNorm, LowRank, Matrix,
    activate, attention, conv2d, conv2d_folded, conv2d_into, conv2d_rows_into, group_norm,
    layer_norm, linear, linear_geglu,
};

/// Expects each of `whole`'s equal parts to be what `part` computes for it.
fn parts_alone(whole: &[f32], count: usize, part: impl Fn(usize) -> Vec<f32>) {
    for (index, expected) in whole.chunks_exact(whole.len() / count).enumerate() {
        same(&part(index), expected);
    }
}

#[test]
fn a_row_of_a_linear_layer_does_not_know_the_others() {
    for (rows, inputs, outputs) in [(13, 40, 24), (500, 640, 330), (1000, 100, 72), (7, 900, 1300)]
    {
        let mut random = Random(1);
        let x = random.numbers(rows * inputs);
        let weight = Stored::new(&mut random, 1, 1, outputs, inputs);
        let bias = random.numbers(outputs);
        let epilogue =
            Epilogue { bias: Some(&bias), activation: Activation::Gelu, ..Default::default() };
        each_isa(|| {
            let whole = on_any_threads(|| linear(&x, rows, weight.matrix(), &epilogue));
            for count in [1, 5, 6, 7] {
                let some = linear(&x[..count * inputs], count, weight.matrix(), &epilogue);
                same(&some, &whole[..count * outputs]);
            }
            let last = linear(&x[(rows - 1) * inputs..], 1, weight.matrix(), &epilogue);
            same(&last, &whole[(rows - 1) * outputs..]);
        });
    }
}

#[test]
fn a_row_of_a_gated_layer_does_not_know_the_others() {
    let (rows, inputs, outputs) = (430, 400, 168);
    let mut random = Random(2);
    let x = random.numbers(rows * inputs);
    let weight = Stored::new(&mut random, 1, 1, 2 * outputs, inputs);
    let bias = random.numbers(2 * outputs);
    each_isa(|| {
        let whole = on_any_threads(|| linear_geglu(&x, rows, weight.matrix(), Some(&bias), &[]));
        parts_alone(&whole, 2, |i| {
            let x = &x[i * rows / 2 * inputs..][..rows / 2 * inputs];
            linear_geglu(x, rows / 2, weight.matrix(), Some(&bias), &[])
        });
    });
}

#[test]
fn a_row_of_a_low_rank_branch_does_not_know_the_others() {
    let (rows, inputs, outputs, rank) = (600, 640, 640, 12);
    let mut random = Random(3);
    let x = random.numbers(rows * inputs);
    let weight = Stored::new(&mut random, 1, 1, outputs, inputs);
    let (down, up) = (random.numbers(rank * inputs), random.numbers(outputs * rank));
    let run = |range: std::ops::Range<usize>| {
        let down = Matrix::from_f32(rank, inputs, &down);
        let up = Matrix::from_f32(outputs, rank, &up);
        let low_rank = &[LowRank { down, up, scale: 0.5 }];
        let x = &x[range.start * inputs..range.end * inputs];
        let epilogue = Epilogue { low_rank, ..Default::default() };
        linear(x, range.len(), weight.matrix(), &epilogue)
    };
    each_isa(|| {
        let whole = on_any_threads(|| run(0..rows));
        parts_alone(&whole, 3, |i| run(i * 200..(i + 1) * 200));
    });
}

#[test]
fn a_band_of_an_image_is_convolved_as_in_the_whole() {
    let (h, w, channels, outputs) = (70, 45, 24, 20);
    let mut random = Random(14);
    let x = random.numbers(h * w * channels);
    let weight = Stored::new(&mut random, 1, 1, outputs, 9 * channels);
    let conv = |top, bottom| Conv {
        weight: weight.matrix(),
        kernel: 3,
        stride: 1,
        padding: [top, bottom, 1, 1],
        upsample: false,
    };
    let epilogue = ConvEpilogue::default();
    each_isa(|| {
        let (whole, _) = conv2d(&x, [1, h, w, channels], &conv(1, 1), &epilogue);
        // Bands start at multiples of four rows: Winograd's tiles stay where they are.
        let mut bands = Vec::new();
        for (start, end) in [(0, 4), (4, 36), (36, 40), (40, h)] {
            let (first, last) = (start.max(1) - 1, h.min(end + 1));
            let (top, bottom) = (usize::from(start == 0), usize::from(end == h));
            let x = &x[first * w * channels..last * w * channels];
            let shape = [1, last - first, w, channels];
            bands.extend(conv2d(x, shape, &conv(top, bottom), &epilogue).0);
        }
        same(&bands, &whole);
    });
}

#[test]
fn an_image_of_a_convolution_does_not_know_the_others() {
    for (size, channels, outputs, kernel, stride, upsample) in [
        (16, 40, 48, 3, 1, false),
        (15, 90, 33, 3, 2, false),
        (9, 96, 80, 3, 1, true),
        (20, 70, 30, 1, 1, false),
        // Several groups of Winograd's tiles, more with three images than with one.
        (60, 24, 20, 3, 1, false),
        (45, 300, 70, 3, 1, false),
        (33, 17, 9, 3, 1, true),
    ] {
        let mut random = Random(4);
        let batch = 3;
        let x = random.numbers(batch * size * size * channels);
        let inputs = channels * kernel * kernel;
        let weight = Stored::new(&mut random, 1, 1, outputs, inputs);
        let padding = [kernel / 2; 4];
        let conv = Conv { weight: weight.matrix(), kernel, stride, padding, upsample };
        let per_image = random.numbers(batch * outputs);
        let run = |images: std::ops::Range<usize>| {
            let image = size * size * channels;
            let per_image = &per_image[images.start * outputs..images.end * outputs];
            let epilogue = ConvEpilogue { per_image: Some(per_image), ..Default::default() };
            let shape = [images.len(), size, size, channels];
            conv2d(&x[images.start * image..images.end * image], shape, &conv, &epilogue).0
        };
        each_isa(|| {
            let whole = on_any_threads(|| run(0..batch));
            parts_alone(&whole, batch, |i| run(i..i + 1));
        });
    }
}

/// Whoever works in bands relies on it: those start at multiples of four rows.
#[test]
fn a_band_of_a_convolution_has_the_bits_of_the_whole() {
    for (height, width, channels, outputs) in [(24, 17, 40, 48), (13, 30, 12, 5), (40, 40, 64, 64)]
    {
        let mut random = Random(10);
        let x = random.numbers(height * width * channels);
        let weight = Stored::new(&mut random, 0, 0, outputs, channels * 9);
        let factors = random.numbers(channels);
        let fold = Fold { factors: &factors, offsets: &factors, silu: true };
        let conv = |padding, upsample| Conv {
            weight: weight.matrix(),
            kernel: 3,
            stride: 1,
            padding,
            upsample,
        };
        let none = ConvEpilogue::default();
        each_isa(|| {
            let shape = [1, height, width, channels];
            let (whole, _) = conv2d_folded(&x, shape, &conv([1; 4], false), Some(&fold), &none);
            for rows in [4, 8, 12] {
                for start in (0..height).step_by(rows) {
                    let end = height.min(start + rows);
                    let read = start.saturating_sub(1)..height.min(end + 1);
                    let padding = [usize::from(start == 0), usize::from(end == height), 1, 1];
                    let part = &x[read.start * width * channels..read.end * width * channels];
                    let mut band = vec![f32::NAN; (end - start) * width * outputs];
                    let shape = [1, read.len(), width, channels];
                    let conv = conv(padding, false);
                    conv2d_into(&mut band, part, shape, &conv, Some(&fold), &none);
                    same(&band, &whole[start * width * outputs..end * width * outputs]);
                }
            }

            // A band may also be asked for of the whole image.
            for upsample in [false, true] {
                let conv = conv([1; 4], upsample);
                let (whole, [_, height, width, _]) =
                    conv2d_folded(&x, shape, &conv, Some(&fold), &none);
                let line = width * outputs;
                for rows in [4, 8, 12] {
                    for start in (0..height).step_by(rows) {
                        let end = height.min(start + rows);
                        let mut band = vec![f32::NAN; (end - start) * line];
                        let rows = start..end;
                        conv2d_rows_into(&mut band, rows, &x, shape, &conv, Some(&fold), &none);
                        same(&band, &whole[start * line..end * line]);
                    }
                }
            }
        });
    }
}

#[test]
fn a_query_does_not_know_the_other_queries_heads_or_sequences() {
    for (query_tokens, key_tokens, heads, head_dim, causal) in [
        (300, 300, 2, 16, false),
        (77, 77, 3, 64, true),
        (300, 300, 2, 16, true),
        (1000, 77, 2, 40, false),
    ] {
        let mut random = Random(5);
        let batch = 2;
        let width = heads * head_dim;
        let q = random.numbers(batch * query_tokens * width);
        let [k, v] = [(); 2].map(|()| random.numbers(batch * key_tokens * width));
        let shape = AttentionShape { batch, query_tokens, key_tokens, heads, head_dim };
        each_isa(|| {
            let whole = on_any_threads(|| attention(&q, &k, &v, shape, 0.2, causal));
            parts_alone(&whole, batch, |i| {
                let part = |x: &[f32]| x[i * x.len() / 2..(i + 1) * x.len() / 2].to_vec();
                let shape = AttentionShape { batch: 1, ..shape };
                attention(&part(&q), &part(&k), &part(&v), shape, 0.2, causal)
            });
            if !causal {
                for count in [1, 7] {
                    let shape = AttentionShape { batch: 1, query_tokens: count, ..shape };
                    let keys = ..key_tokens * width;
                    let some =
                        attention(&q[..count * width], &k[keys], &v[keys], shape, 0.2, false);
                    same(&some, &whole[..count * width]);
                }
            }
        });
    }
}

#[test]
fn a_causal_prefix_does_not_know_what_follows() {
    let (tokens, width) = (200, 32);
    let mut random = Random(6);
    let [q, k, v] = [(); 3].map(|()| random.numbers(tokens * width));
    let run = |count: usize| {
        let part = ..count * width;
        let shape = AttentionShape {
            batch: 1,
            query_tokens: count,
            key_tokens: count,
            heads: 2,
            head_dim: width / 2,
        };
        attention(&q[part], &k[part], &v[part], shape, 0.3, true)
    };
    each_isa(|| common::close_to(&run(77), &run(tokens)[..77 * width], 1e-6));
}

#[test]
fn norms_do_not_know_other_images_or_rows() {
    let (batch, height, width, channels) = (3, 50, 30, 96);
    let positions = height * width;
    let mut random = Random(7);
    let x = random.numbers(batch * positions * channels);
    let (weight, bias) = (random.numbers(channels), random.numbers(channels));
    let norm = GroupNorm { groups: 32, eps: 1e-5, weight: &weight, bias: &bias };
    let group = |x: &[f32], batch| group_norm(x, [batch, height, width, channels], &norm, true);
    let layer = |x: &[f32]| layer_norm(x, channels, 1e-5, &weight, &bias);
    each_isa(|| {
        let image = |i: usize| &x[i * positions * channels..(i + 1) * positions * channels];
        let whole = on_any_threads(|| group(&x, batch));
        parts_alone(&whole, batch, |i| group(image(i), 1));
        let whole = on_any_threads(|| layer(&x));
        parts_alone(&whole, batch, |i| layer(image(i)));
    });
}

#[test]
fn activations_do_not_depend_on_threads_or_position() {
    let x = Random(8).numbers(200_001);
    each_isa(|| {
        let whole = on_any_threads(|| activate(&x, Activation::Gelu));
        same(&activate(&x[3..10], Activation::Gelu), &whole[3..10]);
    });
}

#[test]
fn nothing_in_gives_nothing_out() {
    let weight = Matrix::from_f32(3, 2, &[1.0; 6]);
    assert!(linear(&[], 0, weight, &Epilogue::default()).is_empty());
    assert!(activate(&[], Activation::Silu).is_empty());
    assert!(layer_norm(&[], 2, 1e-5, &[1.0; 2], &[0.0; 2]).is_empty());
    let empty = Matrix::from_f32(3, 0, &[]);
    let bias = [1.0, 2.0, 3.0];
    let epilogue = Epilogue { bias: Some(&bias), ..Default::default() };
    same(&linear(&[], 2, empty, &epilogue), &[1.0, 2.0, 3.0, 1.0, 2.0, 3.0]);
}

#[test]
#[should_panic(expected = "x of a linear layer")]
fn a_length_that_does_not_fit_is_a_bug_of_the_caller() {
    let weight = Matrix::from_f32(3, 2, &[1.0; 6]);
    let _ = linear(&[1.0; 5], 2, weight, &Epilogue::default());
}

#[test]
fn a_gradient_of_a_layer_does_not_know_other_rows_or_images() {
    use unwrong_kernels::{
        GroupNorm, conv2d_backward, group_norm_backward, layer_norm_backward, linear_backward,
    };
    let mut random = Random(9);
    let (rows, inputs, outputs) = (450, 333, 640);
    let weight = Stored::new(&mut random, 1, 1, outputs, inputs);
    let dy = random.numbers(rows * outputs);
    let linear = |dy: &[f32]| linear_backward(dy, dy.len() / outputs, weight.matrix());

    let (batch, size, channels) = (3, 12, 96);
    let image = size * size * channels;
    let filters = Stored::new(&mut random, 1, 1, channels, 9 * channels);
    let conv = |dy: &[f32], stride, upsample| {
        let weight = filters.matrix();
        let conv = Conv { weight, kernel: 3, stride, padding: [1; 4], upsample };
        let shape = [1, size, size, channels];
        let images = dy.len() / conv.output_shape(shape).iter().product::<usize>();
        conv2d_backward(dy, &conv, [images, size, size, channels])
    };

    let x = random.numbers(batch * image);
    let (weights, bias) = (random.numbers(channels), random.numbers(channels));
    let group = |range: std::ops::Range<usize>, dy: &[f32]| {
        let batch = range.len() / image;
        let shape = [batch, size, size, channels];
        let norm = GroupNorm { groups: 32, eps: 1e-5, weight: &weights, bias: &bias };
        group_norm_backward(dy, &x[range], shape, &norm, true)
    };
    let layer = |range: std::ops::Range<usize>, dy: &[f32]| {
        layer_norm_backward(dy, &x[range], channels, 1e-5, &weights)
    };
    let dimages = random.numbers(4 * batch * image);
    each_isa(|| {
        let whole = on_any_threads(|| linear(&dy));
        parts_alone(&whole, 9, |i| linear(&dy[i * 50 * outputs..(i + 1) * 50 * outputs]));
        for (stride, upsample, length) in
            [(1, false, image), (2, false, image / 4), (1, true, 4 * image)]
        {
            let dy = &dimages[..batch * length];
            let whole = on_any_threads(|| conv(dy, stride, upsample));
            parts_alone(&whole, batch, |i| {
                conv(&dy[i * length..(i + 1) * length], stride, upsample)
            });
        }
        let dy = &dimages[..batch * image];
        let whole = on_any_threads(|| group(0..batch * image, dy));
        parts_alone(&whole, batch, |i| {
            let range = i * image..(i + 1) * image;
            group(range.clone(), &dy[range])
        });
        let whole = on_any_threads(|| layer(0..batch * image, dy));
        parts_alone(&whole, batch, |i| {
            let range = i * image..(i + 1) * image;
            layer(range.clone(), &dy[range])
        });
    });
}

#[test]
fn gradients_of_attention_do_not_know_other_sequences() {
    use unwrong_kernels::{AttentionPass, attention_backward, attention_with_log_sum};
    for (query_tokens, key_tokens, heads, head_dim, causal) in
        [(300, 77, 2, 40, false), (200, 200, 3, 64, true), (40, 900, 1, 16, false)]
    {
        let mut random = Random(10);
        let batch = 2;
        let width = heads * head_dim;
        let [q, dout] = [(); 2].map(|()| random.numbers(batch * query_tokens * width));
        let [k, v] = [(); 2].map(|()| random.numbers(batch * key_tokens * width));
        let run = |range: std::ops::Range<usize>| {
            let [queries, keys] = [query_tokens, key_tokens]
                .map(|tokens| range.start * tokens * width..range.end * tokens * width);
            let (q, dout) = (&q[queries.clone()], &dout[queries]);
            let (k, v) = (&k[keys.clone()], &v[keys]);
            let batch = range.len();
            let shape = AttentionShape { batch, query_tokens, key_tokens, heads, head_dim };
            let (out, log_sums) = attention_with_log_sum(q, k, v, shape, 0.2, causal);
            let (out, log_sums) = (&out, &log_sums);
            let pass = AttentionPass { q, k, v, out, log_sums, shape, scale: 0.2, causal };
            attention_backward(&pass, dout)
        };
        each_isa(|| {
            let _ = on_any_threads(|| run(0..batch).concat());
            for (which, whole) in run(0..batch).iter().enumerate() {
                parts_alone(whole, batch, |i| run(i..i + 1)[which].clone());
            }
        });
    }
}
