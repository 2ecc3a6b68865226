//! The values are those of kohya's sd-scripts at 48d368f: `BucketManager(no_upscale, (1024, 1024),
//! 512, 2048, 64)` and so on, `make_buckets` and `select_bucket`.

use proptest::prelude::*;

use super::*;

fn size(width: u32, height: u32) -> Size {
    Size { width, height }
}

fn options(resolution: u32, framing: Framing) -> DataOptions {
    DataOptions { resolution, framing, ..DataOptions::default() }
}

/// Pictures, buckets and resized sizes.
type Rows = &'static [([u32; 2], [u32; 2], [u32; 2])];

fn assert_fits(options: &DataOptions, rows: Rows) {
    let buckets = Buckets::new(options);
    for (picture, bucket, resized) in rows {
        let [picture, bucket, resized] = [picture, bucket, resized].map(|[w, h]| size(*w, *h));
        assert_eq!(buckets.fit(picture), Fit { resized, bucket }, "{picture}");
    }
}

#[test]
fn buckets_are_kohyas() {
    let shapes = |options: &DataOptions| -> Vec<[u32; 2]> {
        Buckets::new(options).shapes.iter().map(|shape| [shape.width, shape.height]).collect()
    };
    let tall = [
        [512, 1856],
        [512, 1920],
        [512, 1984],
        [512, 2048],
        [576, 1664],
        [576, 1728],
        [576, 1792],
        [640, 1536],
        [640, 1600],
        [704, 1408],
        [704, 1472],
        [768, 1280],
        [768, 1344],
        [832, 1216],
        [896, 1152],
        [960, 1088],
    ];
    let wide = tall.iter().rev().map(|[width, height]| [*height, *width]);
    let mut all: Vec<[u32; 2]> = tall.into_iter().chain([[1024, 1024]]).chain(wide).collect();
    all.sort_unstable();
    assert_eq!(shapes(&options(1024, Framing::Buckets)), all);

    let small = [
        [64, 208],
        [64, 224],
        [64, 240],
        [64, 256],
        [80, 176],
        [80, 192],
        [96, 160],
        [112, 144],
        [128, 128],
        [144, 112],
        [160, 96],
        [176, 80],
        [192, 80],
        [208, 64],
        [224, 64],
        [240, 64],
        [256, 64],
    ];
    assert_eq!(shapes(&options(128, Framing::Buckets)), small);

    // kohya's own defaults: 256 to 1024.
    let sides = DataOptions { min_side: Some(256), max_side: Some(1024), ..DataOptions::default() };
    assert_eq!(shapes(&sides).len(), 25);
    assert!(shapes(&sides).iter().all(|shape| shape.contains(&1024)));
}

#[test]
fn pictures_go_to_kohyas_buckets() {
    assert_fits(
        &options(1024, Framing::Buckets),
        &[
            ([1024, 1024], [1024, 1024], [1024, 1024]),
            ([1920, 1080], [1344, 768], [1365, 768]),
            ([1080, 1920], [768, 1344], [768, 1365]),
            ([4000, 3000], [1152, 896], [1195, 896]),
            ([3000, 4000], [896, 1152], [896, 1195]),
            ([800, 600], [1152, 896], [1195, 896]),
            ([512, 512], [1024, 1024], [1024, 1024]),
            ([2048, 512], [2048, 512], [2048, 512]),
            ([1, 1], [1024, 1024], [1024, 1024]),
            ([1000, 333], [1728, 576], [1730, 576]),
            ([6000, 4000], [1216, 832], [1248, 832]),
            ([333, 1000], [576, 1728], [576, 1730]),
            ([1023, 1025], [1024, 1024], [1024, 1026]),
            ([5000, 1000], [2048, 512], [2560, 512]),
            ([20_000, 40], [2048, 512], [256_000, 512]),
            ([640, 1537], [640, 1536], [640, 1537]),
            ([100, 99], [1024, 1024], [1034, 1024]),
        ],
    );
    assert_fits(
        &options(128, Framing::Buckets),
        &[
            ([1024, 1024], [128, 128], [128, 128]),
            ([1344, 768], [160, 96], [168, 96]),
            ([768, 1344], [96, 160], [96, 168]),
            ([512, 100], [256, 64], [328, 64]),
            ([100, 150], [96, 160], [107, 160]),
        ],
    );
}

#[test]
fn without_upscale_small_pictures_keep_their_size_as_kohyas_do() {
    assert_fits(
        &options(1024, Framing::BucketsWithoutUpscale),
        &[
            ([1024, 1024], [1024, 1024], [1024, 1024]),
            ([1920, 1080], [1344, 768], [1365, 768]),
            ([4000, 3000], [1088, 832], [1109, 832]),
            ([3000, 4000], [832, 1088], [832, 1109]),
            ([800, 600], [768, 576], [800, 600]),
            ([1000, 333], [960, 320], [1000, 333]),
            ([6000, 4000], [1216, 832], [1248, 832]),
            ([1023, 1025], [960, 1024], [1023, 1025]),
            ([5000, 1000], [2240, 448], [2240, 448]),
            ([640, 1537], [640, 1536], [640, 1537]),
            ([100, 99], [64, 64], [100, 99]),
            // kohya's scripts divide by zero here.
            ([1, 1], [0, 0], [1, 1]),
        ],
    );
    assert_fits(
        &options(128, Framing::BucketsWithoutUpscale),
        &[
            ([1344, 768], [160, 96], [168, 96]),
            ([512, 100], [240, 48], [246, 48]),
            ([64, 40], [64, 32], [64, 40]),
        ],
    );
}

#[test]
fn the_step_follows_from_the_resolution() {
    let step = |resolution| options(resolution, Framing::Buckets).step();
    let steps = [64, 96, 128, 192, 256, 512, 768, 1024, 4096].map(step);
    assert_eq!(steps, [8, 8, 16, 16, 32, 64, 64, 64, 64]);
}

#[test]
fn a_square_takes_everything() {
    let square = Buckets::new(&options(1000, Framing::Square));
    let fit = Fit { resized: size(1707, 960), bucket: size(960, 960) };
    assert_eq!(square.fit(size(1920, 1080)), fit);
}

proptest! {
    #[test]
    fn buckets_are_covered_and_within_the_area(
        resolution in 64u32..=2048,
        framing in prop::sample::select(vec![
            Framing::Buckets,
            Framing::BucketsWithoutUpscale,
            Framing::Square,
        ]),
        step in prop::option::of(1u32..=8),
        width in 1u32..=20_000,
        height in 1u32..=20_000,
    ) {
        let step = step.map(|step| step * 8);
        let options = DataOptions { bucket_step: step, ..self::options(resolution, framing) };
        options.check().expect("the options are fine");
        let Fit { resized, bucket } = Buckets::new(&options).fit(size(width, height));
        prop_assert!(resized.width >= bucket.width && resized.height >= bucket.height);
        prop_assert!(bucket.width.is_multiple_of(options.step()));
        prop_assert!(bucket.height.is_multiple_of(options.step()));
        // Without upscale kohya rounds up by half a pixel before it rounds down to the step.
        let half = u32::from(framing == Framing::BucketsWithoutUpscale && bucket.width > 0 && bucket.height > 0);
        let area = (bucket.width - half) * (bucket.height - half);
        prop_assert!(area <= resolution * resolution, "{bucket} at {resolution}");
        if framing != Framing::BucketsWithoutUpscale {
            let [min, max] = options.sides();
            prop_assert!((min..=max).contains(&bucket.width) || framing == Framing::Square);
            // One side fits; the other is cropped.
            prop_assert!(resized.width == bucket.width || resized.height == bucket.height);
        }
    }
}
