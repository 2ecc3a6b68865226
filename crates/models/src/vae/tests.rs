//! The decoder's bands, tiles and estimates, on the demo model.

use std::cell::Cell;
use std::path::Path;

use candle_core::{Device, Tensor};

use super::*;
use crate::files::{Folder, ModelParts};
use crate::lora::LayerAdapters;
use crate::ops::Ops;

fn demo() -> Vae {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/model/base");
    let parts = ModelParts::open_folder(&Folder::disk(folder)).expect("the demo model opens");
    let (config, weights) = parts.vae.expect("it has a VAE");
    Vae::load(&config, &weights).expect("it loads")
}

/// Numbers between −1 and 1.
fn numbers(shape: [usize; 4]) -> Tensor {
    let count = shape.iter().product::<usize>() as u32;
    let number = |i: u32| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0;
    Tensor::from_vec((0..count).map(number).collect(), &shape[..], &Device::Cpu)
        .expect("the shape holds so many numbers")
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    let values = tensor.flatten_all().and_then(|flat| flat.to_vec1::<f32>());
    values.expect("a tensor of f32").into_iter().map(f32::to_bits).collect()
}

fn decode(vae: &Vae, latents: &Tensor) -> Tensor {
    let none = LayerAdapters::default();
    vae.decode(&Run::new(Ops::Cpu, &none), latents).expect("it decodes")
}

#[test]
fn streaming_changes_not_a_bit() {
    let mut vae = demo();
    // 8 × 8 pixels, 16 × 24, 24 × 72, 200 × 72.
    for (height, width) in [(1, 1), (2, 3), (3, 9), (25, 9)] {
        let latents = numbers([1, height, width, 4]);
        vae.streaming.above = usize::MAX;
        let whole = bits(&decode(&vae, &latents));
        for rows in [4, 8, 20, 32] {
            vae.streaming = Streaming { above: 0, rows };
            assert_eq!(bits(&decode(&vae, &latents)), whole, "{height} × {width}, {rows} rows");
        }

        // Nor does an observer, who sees every image whole.
        let none = LayerAdapters::default();
        let seen = Cell::new(false);
        let observer = |name: &str, _: &Tensor| {
            seen.set(seen.get() || name == "decoder.up_blocks.2.upsamplers.0");
        };
        let run = Run { observer: Some(&observer), ..Run::new(Ops::Cpu, &none) };
        assert_eq!(bits(&vae.decode(&run, &latents).expect("it decodes")), whole);
        assert!(seen.get(), "the upsampled image was shown");
    }
}

#[test]
fn kernels_equal_the_plain_operations_at_any_size() {
    let vae = demo();
    let none = LayerAdapters::default();
    for (batch, height, width) in [(1, 1, 1), (2, 3, 9), (8, 2, 1), (1, 25, 9)] {
        let latents = numbers([batch, height, width, 4]);
        let [fast, plain] = [Ops::Cpu, Ops::Reference]
            .map(|ops| vae.decode(&Run::new(ops, &none), &latents).expect("it decodes"));
        let decibels = psnr(&fast, &plain);
        assert!(decibels > 90.0, "{batch} × {height} × {width}: {decibels} dB");
    }
}

#[test]
fn an_image_does_not_know_its_batch() {
    let vae = demo();
    let latents = numbers([3, 3, 2, 4]);
    let together = bits(&decode(&vae, &latents));
    let alone = (0..3).flat_map(|image| {
        bits(&decode(&vae, &latents.narrow(0, image, 1).expect("there are three")))
    });
    assert_eq!(together, alone.collect::<Vec<_>>());

    let none = LayerAdapters::default();
    let run = Run::new(Ops::Cpu, &none);
    let pixels = numbers([2, 16, 24, 3]);
    let encode = |pixels: &Tensor| bits(&vae.encode(&run, pixels).expect("it encodes").mean);
    let alone = (0..2).flat_map(|i| encode(&pixels.narrow(0, i, 1).expect("there are two")));
    assert_eq!(encode(&pixels), alone.collect::<Vec<_>>());
}

#[test]
fn the_input_of_a_decode_stays_as_it_is() {
    let latents = numbers([1, 4, 4, 4]);
    let before = bits(&latents);
    decode(&demo(), &latents);
    assert_eq!(bits(&latents), before);
}

/// In decibels, for pixels in −1…1.
fn psnr(a: &Tensor, b: &Tensor) -> f64 {
    let error = (a - b).and_then(|d| d.sqr()).and_then(|d| d.mean_all());
    let error = error.and_then(|e| e.to_scalar::<f32>()).expect("two pictures of one size");
    10.0 * (4.0 / f64::from(error)).log10()
}

/// Smooth latents, as pictures have: noise makes every tile alike.
fn waves([height, width]: [usize; 2]) -> Tensor {
    let value = |y: usize, x: usize, c: usize| {
        let (y, x) = (y as f32 / height as f32, x as f32 / width as f32);
        0.13 * (6.0 * y + c as f32).sin() * (5.0 * x + 2.0 * c as f32).cos()
    };
    let values = (0..height * width * 4).map(|i| value(i / 4 / width, i / 4 % width, i % 4));
    Tensor::from_vec(values.collect::<Vec<_>>(), (1, height, width, 4), &Device::Cpu)
        .expect("the shape holds so many numbers")
}

#[test]
fn tiles_come_close_to_the_whole() {
    let vae = demo();
    let none = LayerAdapters::default();
    let run = Run::new(Ops::Cpu, &none);
    for size in [[40, 32], [33, 70]] {
        let latents = waves(size);
        let whole = decode(&vae, &latents);
        let tiled = vae.decode_as(&run, &latents, Tiling::Tiles { side: 32 }).expect("it decodes");
        let decibels = psnr(&tiled, &whole);
        assert!(decibels > 20.0, "{size:?}: {decibels} dB");

        let pixels = whole.clamp(-1.0, 1.0).expect("pixels are numbers");
        let whole = vae.encode(&run, &pixels).expect("it encodes").mean;
        let tiles = Tiling::Tiles { side: 32 };
        let tiled = vae.encode_as(&run, &pixels, tiles).expect("it encodes").mean;
        let decibels = psnr(&tiled, &whole);
        assert!(decibels > 10.0, "{size:?}, latents: {decibels} dB");
    }
}

#[test]
fn estimates_grow_with_the_picture() {
    let mut vae = demo();
    for above in [0, usize::MAX] {
        vae.streaming.above = above;
        for plan in [Vae::plan_decode, Vae::plan_encode] {
            let bytes = |height, width| plan(&vae, [height, width], None).bytes;
            for side in 1..300 {
                assert!(bytes(side, side) <= bytes(side, side + 1), "{side}");
                assert!(bytes(side, 7) <= bytes(side + 1, 7), "{side}");
            }
            assert_eq!(plan(&vae, [128, 128], None).tiling, Tiling::Whole);
        }
    }
}

#[test]
fn streaming_saves_memory() {
    let mut vae = demo();
    let bytes = |vae: &Vae| vae.plan_decode([256, 256], None).bytes;
    vae.streaming.above = usize::MAX;
    let stored = bytes(&vae);
    vae.streaming.above = 0;
    assert!(bytes(&vae) < stored);
}
