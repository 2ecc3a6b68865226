//! Aspect-ratio buckets: shapes of about one area, so that little of a picture is cropped away.
//!
//! The buckets and the choice are those of kohya's sd-scripts at 48d368f (`BucketManager` in
//! `library/train_util.py`, `make_bucket_resolutions` in `library/model_util.py`).

use unwrong::request::Size;

use super::options::{DataOptions, Framing};

/// The shapes that pictures are trained in.
#[derive(Debug, Clone)]
pub(super) struct Buckets {
    /// Sorted by width, then height. None where every picture has a bucket of its own.
    shapes: Vec<Size>,
    max_area: f64,
    step: u32,
}

/// How a picture becomes training data: resized, then cropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fit {
    /// Covers the bucket, and has the picture's aspect ratio.
    pub(super) resized: Size,
    /// What is left after the crop.
    pub(super) bucket: Size,
}

impl Fit {
    /// Share of the picture that the crop keeps, 0 to 1.
    pub(super) fn kept(&self) -> f64 {
        area(self.bucket) / area(self.resized)
    }
}

impl Buckets {
    /// The buckets of checked options.
    pub(super) fn new(options: &DataOptions) -> Self {
        let (step, side) = (options.step(), options.side());
        let shapes = match options.framing {
            Framing::Square => vec![Size { width: side, height: side }],
            Framing::Buckets => shapes(options),
            Framing::BucketsWithoutUpscale => Vec::new(),
        };
        Self { shapes, max_area: f64::from(options.resolution).powi(2), step }
    }

    /// How a picture of this size is trained. A side of the bucket is 0 where the picture is
    /// smaller than a step, and small pictures are not enlarged.
    pub(super) fn fit(&self, picture: Size) -> Fit {
        let ratio = ratio(picture);
        if self.shapes.contains(&picture) {
            return Fit { resized: picture, bucket: picture };
        }
        let error = |shape: &&Size| (self::ratio(**shape) - ratio).abs();
        let nearest = self.shapes.iter().min_by(|a, b| error(a).total_cmp(&error(b)));
        match nearest {
            Some(bucket) => Fit { resized: cover(picture, *bucket), bucket: *bucket },
            None => self.fit_without_upscale(picture, ratio),
        }
    }

    /// Large pictures are brought down to the area, one side to a multiple of the step; the others
    /// stay as they are. The bucket is what multiples of the step leave of them.
    fn fit_without_upscale(&self, picture: Size, ratio: f64) -> Fit {
        let mut resized = picture;
        if area(picture) > self.max_area {
            let width = (self.max_area * ratio).sqrt();
            let by_width = self.round_to_step(width);
            let by_height = self.round_to_step(self.max_area / width);
            // How far each way is off, once the other side is a multiple, too.
            let error_by_width = off(by_width, self.round_to_step(by_width / ratio), ratio);
            let error_by_height = off(self.round_to_step(by_height * ratio), by_height, ratio);
            let [width, height] = if error_by_width < error_by_height {
                [by_width, (by_width / ratio + 0.5).floor()]
            } else {
                [(by_height * ratio + 0.5).floor(), by_height]
            };
            resized = Size { width: width as u32, height: height as u32 };
        }
        let down = |side: u32| side - side % self.step;
        Fit { resized, bucket: Size { width: down(resized.width), height: down(resized.height) } }
    }

    /// Down to a multiple of the step, as kohya's `round_to_steps`.
    fn round_to_step(&self, side: f64) -> f64 {
        let side = (side + 0.5) as u32;
        f64::from(side - side % self.step)
    }
}

/// Every width between the sides, a step apart, with the largest height that the area allows; and
/// the same on end.
fn shapes(options: &DataOptions) -> Vec<Size> {
    let (step, side, [min, max]) = (options.step(), options.side(), options.sides());
    let area = options.resolution * options.resolution;
    let mut shapes = vec![Size { width: side, height: side }];
    for width in (min..=max).step_by(step as usize) {
        let height = (area / width / step * step).min(max);
        if height >= min {
            shapes.push(Size { width, height });
            shapes.push(Size { width: height, height: width });
        }
    }
    shapes.sort_by_key(|shape| (shape.width, shape.height));
    shapes.dedup();
    shapes
}

/// The smallest size with the picture's aspect ratio that covers the bucket, rounded half up.
fn cover(picture: Size, bucket: Size) -> Size {
    let [width, height] = [picture.width, picture.height].map(u64::from);
    let [bucket_width, bucket_height] = [bucket.width, bucket.height].map(u64::from);
    let scaled = |side: u64, to: u64, from: u64| {
        u32::try_from((2 * side * to + from) / (2 * from)).unwrap_or(u32::MAX)
    };
    if width * bucket_height > height * bucket_width {
        Size { width: scaled(width, bucket_height, height), height: bucket.height }
    } else {
        Size { width: bucket.width, height: scaled(height, bucket_width, width) }
    }
}

fn area(size: Size) -> f64 {
    f64::from(size.width) * f64::from(size.height)
}

fn ratio(size: Size) -> f64 {
    f64::from(size.width) / f64::from(size.height)
}

/// How far a shape's ratio is from another. Nothing is further than a side of 0.
fn off(width: f64, height: f64, ratio: f64) -> f64 {
    if width == 0.0 || height == 0.0 { f64::INFINITY } else { (width / height - ratio).abs() }
}

#[cfg(test)]
mod tests;
