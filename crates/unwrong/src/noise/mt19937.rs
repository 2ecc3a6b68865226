//! torch's CPU generator: a Mersenne Twister, and two ways from it to normal numbers.
//!
//! Matsumoto and Nishimura 1998; the constants are those of their `mt19937`. The way to
//! normal numbers is torch 2.15's for f32, which is also what f16 and bf16 are rounded from
//! there.

use std::f32::consts::TAU;

/// Words of state.
const N: usize = 624;
/// Distance of the word that is mixed in.
const M: usize = 397;
/// From this length on torch fills the whole tensor with uniforms first.
const FILL: usize = 16;

#[derive(Debug, Clone)]
pub(super) struct TorchCpu {
    twister: Mt19937,
    /// The second number of a pair, kept for the next small draw. Large draws leave it alone.
    kept: Option<f64>,
}

impl TorchCpu {
    pub(super) fn new(seed: u64) -> Self {
        Self { twister: Mt19937::new(seed as u32), kept: None }
    }

    pub(super) fn draw(&mut self, len: usize) -> Vec<f32> {
        if len < FILL {
            return (0..len).map(|_| self.normal() as f32).collect();
        }
        let mut values: Vec<f32> = (0..len).map(|_| self.twister.uniform()).collect();
        for block in values.chunks_exact_mut(FILL) {
            box_muller(block);
        }
        if !len.is_multiple_of(FILL) {
            // The last 16 are drawn anew, over what the blocks left there.
            let last = &mut values[len - FILL..];
            last.fill_with(|| self.twister.uniform());
            box_muller(last);
        }
        values
    }

    /// One number from two f64 uniforms; every second call returns the kept sine.
    fn normal(&mut self) -> f64 {
        if let Some(kept) = self.kept.take() {
            return kept;
        }
        let angle = std::f64::consts::TAU * self.twister.uniform_f64();
        let radius = (-2.0 * (-self.twister.uniform_f64()).ln_1p()).sqrt();
        self.kept = Some(radius * angle.sin());
        radius * angle.cos()
    }
}

/// Sixteen uniforms to sixteen normals: the first eight give radii, the last eight angles.
///
/// Logarithm, sine and cosine go through f64, so the result hangs on no C library's f32 ones.
fn box_muller(block: &mut [f32]) {
    let (first, second) = block.split_at_mut(FILL / 2);
    for (a, b) in first.iter_mut().zip(second) {
        let log = f64::from(1.0 - *a).ln() as f32;
        let radius = (-2.0 * log).sqrt();
        let (sin, cos) = f64::from(TAU * *b).sin_cos();
        *a = radius * cos as f32;
        *b = radius * sin as f32;
    }
}

#[derive(Debug, Clone)]
struct Mt19937 {
    state: [u32; N],
    next: usize,
}

impl Mt19937 {
    fn new(seed: u32) -> Self {
        let mut state = [seed; N];
        for j in 1..N {
            let before = state[j - 1];
            state[j] =
                1_812_433_253u32.wrapping_mul(before ^ (before >> 30)).wrapping_add(j as u32);
        }
        Self { state, next: N }
    }

    fn twist(&mut self) {
        for j in 0..N {
            let mixed = (self.state[j] & 0x8000_0000) | (self.state[(j + 1) % N] & 0x7fff_ffff);
            let odd = if mixed & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[j] = self.state[(j + M) % N] ^ (mixed >> 1) ^ odd;
        }
        self.next = 0;
    }

    fn random(&mut self) -> u32 {
        if self.next == N {
            self.twist();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// In [0, 1), from the low 24 bits.
    fn uniform(&mut self) -> f32 {
        (self.random() & 0x00ff_ffff) as f32 / (1u32 << 24) as f32
    }

    /// In [0, 1), from the low 53 bits of two words, high word first.
    fn uniform_f64(&mut self) -> f64 {
        let high = u64::from(self.random());
        let word = high << 32 | u64::from(self.random());
        (word & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ten_thousandth_word_is_the_one_the_cpp_standard_fixes() {
        let mut twister = Mt19937::new(5489);
        let last = (0..10_000).map(|_| twister.random()).last();
        assert_eq!(last, Some(4_123_659_995));
    }
}
