use proptest::prelude::*;

use super::*;

/// Bits of the first numbers; a change here changes every picture ever made with a seed.
#[test]
fn noise_is_frozen() {
    let bits = |mut noise: Noise, len| -> Vec<u32> {
        noise.draw(len).into_iter().take(4).map(f32::to_bits).collect()
    };
    let cpu = bits(Noise::new(NoiseKind::TorchCpu, 0), 64);
    let cuda = bits(Noise::new(NoiseKind::TorchCuda, 0), 64);
    assert_eq!(cpu, [0xbf90_1b85, 0xbf93_808a, 0xbe80_4bd6, 0xbede_255e]);
    assert_eq!(cuda, [0xbf6c_b6ad, 0xbed9_c6ae, 0xc029_34c5, 0x3e14_ab14]);
}

#[test]
fn seed_zero_on_cuda_draws_the_published_numbers() {
    let four = Noise::new(NoiseKind::TorchCuda, 0).draw(4);
    for (value, published) in four.iter().zip([-0.9247f32, -0.4253, -2.6438, 0.1452]) {
        assert!((value - published).abs() < 5e-5, "{value} is not {published}");
    }
}

#[test]
fn nothing_drawn_is_nothing_used() {
    for kind in NoiseKind::ALL {
        let mut noise = Noise::new(*kind, 7);
        assert!(noise.draw(0).is_empty());
        assert_eq!(noise.draw(20), Noise::new(*kind, 7).draw(20));
    }
}

#[test]
fn the_gpu_matters_only_for_long_draws() {
    let t4 = Gpu { multiprocessors: 40, threads_per_multiprocessor: 1024 };
    let draw = |gpu, len| Noise::torch_cuda(3, gpu).draw(len);
    assert_eq!(draw(t4, 40_960), draw(Gpu::default(), 40_960));
    assert_ne!(draw(t4, 40_961), draw(Gpu::default(), 40_961));
}

#[test]
fn a_gpu_without_threads_still_draws() {
    let none = Gpu { multiprocessors: 0, threads_per_multiprocessor: 0 };
    assert_eq!(Noise::torch_cuda(3, none).draw(1000).len(), 1000);
}

proptest! {
    #[test]
    fn every_draw_is_finite_and_as_long_as_asked(seed: u64, len in 0usize..3000, cuda: bool) {
        let kind = if cuda { NoiseKind::TorchCuda } else { NoiseKind::TorchCpu };
        let values = Noise::new(kind, seed).draw(len);
        prop_assert_eq!(values.len(), len);
        prop_assert!(values.iter().all(|value| value.is_finite()));
    }

    #[test]
    fn on_the_cpu_two_draws_are_one_when_sixteen_divides_both(
        seed: u64, a in 1usize..20, b in 1usize..20,
    ) {
        let mut apart = Noise::new(NoiseKind::TorchCpu, seed);
        let mut joined = apart.draw(16 * a);
        joined.extend(apart.draw(16 * b));
        prop_assert_eq!(joined, Noise::new(NoiseKind::TorchCpu, seed).draw(16 * (a + b)));
    }
}
