//! Speed of each kernel at sizes of the real model: by the clock, the best of a few runs, and
//! by processor time, the mean, which says something on a busy machine too.
//!
//! `cargo bench -p unwrong-kernels [-- FILTER]`

#![expect(clippy::print_stdout, reason = "it is a report")]

use std::time::Instant;

use unwrong_kernels::{
    Activation, AttentionPass, AttentionShape, Conv, ConvEpilogue, Dtype, Epilogue, GroupNorm, Isa,
    LowRank, Matrix, activate, attention, attention_backward, attention_with_log_sum, conv2d,
    conv2d_backward, group_norm, layer_norm, linear, linear_backward, linear_geglu,
};

/// Numbers around zero, cheap to make.
fn numbers(count: usize) -> Vec<f32> {
    (0..count as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 16) as f32 / 32768.0 - 1.0)
        .collect()
}

/// Halves between 2⁻⁸ and 2⁻⁷, of either sign.
fn halves(count: usize) -> Vec<u8> {
    (0..count as u32)
        .flat_map(|i| {
            let random = i.wrapping_mul(2_654_435_761) >> 16;
            ((0x1c00 | (random & 0x83ff)) as u16).to_le_bytes()
        })
        .collect()
}

/// Processor time of all threads so far; infinite where the system does not tell.
fn cpu_seconds() -> f64 {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return f64::INFINITY };
    let nanoseconds = threads.flatten().filter_map(|thread| {
        let line = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        line.split(' ').next()?.parse::<f64>().ok()
    });
    nanoseconds.sum::<f64>() / 1e9
}

struct Bench {
    filter: String,
}

impl Bench {
    /// Runs `kernel` and prints its speed; `work` counts floating point operations.
    fn run<R>(&self, name: &str, work: f64, kernel: impl Fn() -> R) {
        if !name.contains(&self.filter) {
            return;
        }
        let mut best = f64::INFINITY;
        let begin = Instant::now();
        let cpu = cpu_seconds();
        let mut runs = 0;
        while runs < 3 || begin.elapsed().as_secs_f64() < 0.5 {
            let start = Instant::now();
            std::hint::black_box(kernel());
            best = best.min(start.elapsed().as_secs_f64());
            runs += 1;
        }
        let cpu = (cpu_seconds() - cpu) / f64::from(runs) / rayon::current_num_threads() as f64;
        let [wall, cpu_rate] = [best, cpu].map(|seconds| work / seconds / 1e9);
        println!("{name:46} {:10.3} ms {wall:8.1} G/s {cpu_rate:8.1} G/s", best * 1e3);
    }

    fn linear(&self, rows: usize, inputs: usize, outputs: usize) {
        let (x, weight, bias) =
            (numbers(rows * inputs), halves(inputs * outputs), numbers(outputs));
        let weight = Matrix::new(Dtype::F16, outputs, inputs, &weight);
        let epilogue = Epilogue { bias: Some(&bias), ..Default::default() };
        let work = 2.0 * (rows * inputs * outputs) as f64;
        self.run(&format!("linear {rows}x{inputs} -> {outputs}"), work, || {
            linear(&x, rows, weight, &epilogue)
        });
    }

    fn geglu(&self, rows: usize, inputs: usize, outputs: usize) {
        let (x, weight) = (numbers(rows * inputs), halves(2 * inputs * outputs));
        let weight = Matrix::new(Dtype::F16, 2 * outputs, inputs, &weight);
        let work = 4.0 * (rows * inputs * outputs) as f64;
        self.run(&format!("geglu {rows}x{inputs} -> {outputs}"), work, || {
            linear_geglu(&x, rows, weight, None, &[])
        });
    }

    fn low_rank(&self, rows: usize, width: usize, rank: usize) {
        let (x, weight) = (numbers(rows * width), halves(width * width));
        let weight = Matrix::new(Dtype::F16, width, width, &weight);
        let factors = numbers(rank * width);
        let down = Matrix::from_f32(rank, width, &factors);
        let up = Matrix::from_f32(width, rank, &factors);
        let low_rank = &[LowRank { down, up, scale: 0.5 }];
        let epilogue = Epilogue { low_rank, ..Default::default() };
        let work = 2.0 * (rows * width * (width + 2 * rank)) as f64;
        self.run(&format!("linear {rows}x{width}, branch of rank {rank}"), work, || {
            linear(&x, rows, weight, &epilogue)
        });
    }

    fn conv(&self, batch: usize, size: usize, [channels, outputs]: [usize; 2], stride: usize) {
        let (x, weight) = (numbers(batch * size * size * channels), halves(9 * channels * outputs));
        let weight = Matrix::new(Dtype::F16, outputs, 9 * channels, &weight);
        let conv = Conv { weight, kernel: 3, stride, padding: [1; 4], upsample: false };
        let shape = [batch, size, size, channels];
        let pixels = conv.output_shape(shape)[..3].iter().product::<usize>();
        let work = 18.0 * (pixels * channels * outputs) as f64;
        let name = format!("conv {batch}x{size}² {channels} -> {outputs}, stride {stride}");
        self.run(&name, work, || conv2d(&x, shape, &conv, &ConvEpilogue::default()));
    }

    fn attention(&self, batch: usize, [queries, keys]: [usize; 2], heads: usize, head_dim: usize) {
        let width = heads * head_dim;
        let q = numbers(batch * queries * width);
        let k = numbers(batch * keys * width);
        let shape =
            AttentionShape { batch, query_tokens: queries, key_tokens: keys, heads, head_dim };
        let work = 4.0 * (batch * queries * keys * width) as f64;
        let name = format!("attention {batch}x{queries}x{keys}, {heads} heads of {head_dim}");
        self.run(&name, work, || attention(&q, &k, &k, shape, 0.125, false));
    }

    /// Counts the five products that are needed; the kernel makes seven.
    fn attention_gradient(&self, [queries, keys]: [usize; 2], heads: usize, head_dim: usize) {
        let name = format!("attention gradient {queries}x{keys}, {heads} heads of {head_dim}");
        if !name.contains(&self.filter) {
            return;
        }
        let width = heads * head_dim;
        let (q, k) = (numbers(queries * width), numbers(keys * width));
        let shape =
            AttentionShape { batch: 1, query_tokens: queries, key_tokens: keys, heads, head_dim };
        let (out, log_sums) = attention_with_log_sum(&q, &k, &k, shape, 0.125, false);
        let pass = AttentionPass {
            q: &q,
            k: &k,
            v: &k,
            out: &out,
            log_sums: &log_sums,
            shape,
            scale: 0.125,
            causal: false,
        };
        let work = 10.0 * (queries * keys * width) as f64;
        self.run(&name, work, || attention_backward(&pass, &q));
    }

    fn linear_gradient(&self, rows: usize, inputs: usize, outputs: usize) {
        let (dy, weight) = (numbers(rows * outputs), halves(inputs * outputs));
        let weight = Matrix::new(Dtype::F16, outputs, inputs, &weight);
        let work = 2.0 * (rows * inputs * outputs) as f64;
        self.run(&format!("linear gradient {rows}x{inputs} <- {outputs}"), work, || {
            linear_backward(&dy, rows, weight)
        });
    }

    fn conv_gradient(&self, size: usize, [channels, outputs]: [usize; 2], stride: usize) {
        let weight = halves(9 * channels * outputs);
        let weight = Matrix::new(Dtype::F16, outputs, 9 * channels, &weight);
        let conv = Conv { weight, kernel: 3, stride, padding: [1; 4], upsample: false };
        let shape = [1, size, size, channels];
        let dy = numbers(conv.output_shape(shape).iter().product());
        let work = 18.0 * (dy.len() * channels) as f64;
        let name = format!("conv gradient {size}² {channels} <- {outputs}, stride {stride}");
        self.run(&name, work, || conv2d_backward(&dy, &conv, shape));
    }
}

fn main() {
    let (flags, words): (Vec<_>, Vec<_>) =
        std::env::args().skip(1).partition(|argument| argument.starts_with("--"));
    // `cargo bench` says so; `cargo test --all-targets` runs this too, and has no use for it.
    if !flags.iter().any(|flag| flag == "--bench") {
        return;
    }
    let bench = Bench { filter: words.first().cloned().unwrap_or_default() };
    println!("level {}, {} threads", Isa::current().name(), rayon::current_num_threads());

    bench.linear(77, 768, 768);
    bench.linear(2, 1280, 1280);
    bench.linear(77, 1280, 1280);
    bench.linear(154, 2048, 1280);
    bench.linear(512, 1280, 1280);
    bench.linear(512, 5120, 1280);
    bench.linear(2048, 640, 640);
    bench.linear(2048, 1280, 1280);
    bench.linear(2048, 2560, 640);
    bench.linear(8192, 640, 640);
    bench.linear(8192, 1280, 1280);
    bench.geglu(512, 1280, 5120);
    bench.geglu(2048, 640, 2560);
    bench.geglu(8192, 640, 2560);
    for rank in [4, 64] {
        bench.low_rank(2048, 640, rank);
        bench.low_rank(512, 1280, rank);
    }
    bench.conv(1, 64, [320, 320], 1);
    bench.conv(1, 32, [1280, 640], 1);
    bench.conv(2, 16, [1280, 1280], 1);
    bench.conv(2, 8, [1280, 1280], 1);
    bench.conv(1, 64, [640, 640], 2);
    bench.conv(1, 256, [256, 256], 1);
    bench.conv(1, 512, [128, 128], 1);
    bench.conv(1, 512, [128, 3], 1);
    bench.attention(1, [4096, 4096], 10, 64);
    bench.attention(2, [1024, 1024], 20, 64);
    bench.attention(1, [4096, 77], 10, 64);
    bench.attention(1, [4096, 4096], 1, 512);
    bench.linear_gradient(4096, 640, 640);
    bench.linear_gradient(1024, 5120, 1280);
    bench.conv_gradient(64, [320, 320], 1);
    bench.conv_gradient(32, [1280, 640], 1);
    bench.conv_gradient(64, [320, 320], 2);
    bench.attention_gradient([4096, 4096], 10, 64);
    bench.attention_gradient([1024, 77], 20, 64);

    // Elementwise: G/s counts bytes read and written.
    let x = numbers(512 * 512 * 128);
    let ones = vec![1.0; 1280];
    let bytes = 8.0 * x.len() as f64;
    let norm = GroupNorm { groups: 32, eps: 1e-6, weight: &ones[..128], bias: &ones[..128] };
    let shape = [1, 512, 512, 128];
    bench.run("group norm 512²x128, silu", bytes, || group_norm(&x, shape, &norm, true));
    bench.run("  its statistics alone", bytes / 2.0, || norm.factors(&x, shape));
    bench.run("layer norm 26214x1280", bytes / x.len() as f64 * 33_553_920.0, || {
        layer_norm(&x[..33_553_920], 1280, 1e-5, &ones, &ones)
    });
    bench.run("gelu 33 M", bytes, || activate(&x, Activation::Gelu));

    // The demo's sizes: what a call costs.
    bench.linear(2, 64, 128);
    bench.linear(128, 64, 64);
    bench.linear(512, 64, 64);
    bench.geglu(512, 64, 256);
    bench.conv(2, 16, [32, 32], 1);
    bench.conv(1, 128, [32, 32], 1);
    bench.attention(2, [256, 256], 4, 16);
    bench.attention(2, [64, 64], 4, 16);
    let small = numbers(2 * 256 * 64);
    let norm = GroupNorm { groups: 32, eps: 1e-6, weight: &ones[..64], bias: &ones[..64] };
    bench.run("group norm 2x16²x64, silu", 8.0 * small.len() as f64, || {
        group_norm(&small, [2, 16, 16, 64], &norm, true)
    });
    bench.run("layer norm 512x64", 8.0 * small.len() as f64, || {
        layer_norm(&small, 64, 1e-5, &ones[..64], &ones[..64])
    });
}
