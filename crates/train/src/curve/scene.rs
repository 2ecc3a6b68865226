//! What is on the picture of a loss, in units of the SVG.

/// A colour: red, green, blue.
pub(super) type Colour = [u8; 3];

pub(super) const WIDTH: f32 = 800.0;
pub(super) const HEIGHT: f32 = 440.0;
const LEFT: f32 = 72.0;
const RIGHT: f32 = WIDTH - 24.0;
const TOP: f32 = 44.0;
const BOTTOM: f32 = HEIGHT - 56.0;

const INK: Colour = [51, 51, 51];
const GRID: Colour = [226, 226, 226];
const DOT: Colour = [158, 184, 219];
const LINE: Colour = [31, 78, 150];

/// Dots and corners at most: beyond, they only lie on each other.
const MOST_DOTS: usize = 4000;
/// About how many marks an axis has.
const MARKS: f64 = 6.0;

/// Something to draw.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Shape {
    /// Straight from point to point.
    Line { points: Vec<[f32; 2]>, width: f32, colour: Colour },
    /// Round ones.
    Dots { points: Vec<[f32; 2]>, radius: f32, colour: Colour },
    /// One line of text; `at` is on its base line.
    Text { at: [f32; 2], size: f32, anchor: Anchor, upright: bool, text: String },
}

/// Which part of a text is at its point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// The colour of all text.
pub(super) const TEXT: Colour = INK;

/// From losses to shapes.
pub(super) fn curve(losses: &[f32]) -> Vec<Shape> {
    // A loss may be too large for the number it is kept in.
    let all: Vec<f64> = losses.iter().map(|loss| f64::from(loss.min(f32::MAX))).collect();
    let largest = all.iter().copied().fold(0.0, f64::max);
    let highest = if largest > 0.0 { largest } else { 1.0 };
    let (rise, steps) = (nice(highest / MARKS), losses.len() as f64);
    let top = (highest / rise).ceil() * rise;
    let run = nice(steps / MARKS).max(1.0);
    let x = |step: f64| LEFT + (RIGHT - LEFT) * (step / steps) as f32;
    let y = |loss: f64| BOTTOM - (BOTTOM - TOP) * (loss / top) as f32;

    let mut shapes = Vec::new();
    for mark in 0..=(top / rise).round() as usize {
        let value = mark as f64 * rise;
        let colour = if mark == 0 { INK } else { GRID };
        shapes.push(line(vec![[LEFT, y(value)], [RIGHT, y(value)]], 1.0, colour));
        shapes.push(text([LEFT - 8.0, y(value) + 4.5], Anchor::End, number(value, rise)));
    }
    for mark in 0..=(steps / run) as usize {
        let step = mark as f64 * run;
        shapes.push(line(vec![[x(step), BOTTOM], [x(step), BOTTOM + 5.0]], 1.0, INK));
        shapes.push(text([x(step), BOTTOM + 20.0], Anchor::Middle, format!("{step}")));
    }
    shapes.push(text([(LEFT + RIGHT) / 2.0, HEIGHT - 14.0], Anchor::Middle, "step".to_owned()));
    shapes.push(Shape::Text {
        at: [20.0, (TOP + BOTTOM) / 2.0],
        size: 13.0,
        anchor: Anchor::Middle,
        upright: true,
        text: "loss".to_owned(),
    });

    let place = |(index, loss): (usize, &f64)| [x(index as f64 + 1.0), y(*loss)];
    let each = all.len().div_ceil(MOST_DOTS);
    let dots = all.iter().enumerate().step_by(each).map(place).collect();
    shapes.push(Shape::Dots { points: dots, radius: 1.8, colour: DOT });
    let (smooth, span) = smoothed(&all);
    let mut points: Vec<_> = smooth.iter().enumerate().step_by(each).map(place).collect();
    points.extend(smooth.iter().enumerate().next_back().map(place));
    shapes.push(line(points, 2.0, LINE));
    shapes.extend(legend(span));
    shapes
}

/// Exponential means without the pull of a beginning at zero, as TensorBoard smooths; and the
/// steps they are over, which are a twentieth of all, ten at least.
fn smoothed(losses: &[f64]) -> (Vec<f64>, usize) {
    let span = (losses.len() / 20).clamp(10, 500);
    let kept = 1.0 - 1.0 / span as f64;
    let (mut sum, mut weight) = (0.0, 0.0);
    let mean = |loss: &f64| {
        sum = kept * sum + (1.0 - kept) * loss;
        weight = kept * weight + (1.0 - kept);
        sum / weight
    };
    (losses.iter().map(mean).collect(), span)
}

fn legend(span: usize) -> Vec<Shape> {
    let y = 24.0;
    vec![
        Shape::Dots { points: vec![[LEFT + 8.0, y]], radius: 3.0, colour: DOT },
        text([LEFT + 20.0, y + 4.5], Anchor::Start, "each step".to_owned()),
        line(vec![[LEFT + 110.0, y], [LEFT + 134.0, y]], 2.0, LINE),
        text([LEFT + 142.0, y + 4.5], Anchor::Start, format!("mean over about {span} steps")),
    ]
}

fn line(points: Vec<[f32; 2]>, width: f32, colour: Colour) -> Shape {
    Shape::Line { points, width, colour }
}

fn text(at: [f32; 2], anchor: Anchor, text: String) -> Shape {
    Shape::Text { at, size: 13.0, anchor, upright: false, text }
}

/// The next of 1, 2, 5, 10, 20 … and of 0.5, 0.2 … that is not smaller.
fn nice(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= value * 0.999_999);
    factor.unwrap_or(10.0) * power
}

/// With as many digits as marks that far apart need.
fn number(value: f64, apart: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    if !(1e-4..1e6).contains(&apart) {
        return format!("{value:.0e}");
    }
    let digits = (-apart.log10().floor()).max(0.0) as usize;
    format!("{value:.digits$}")
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "these values are exact")]
mod tests {
    use super::*;

    #[test]
    fn marks_are_round_numbers() {
        assert_eq!([0.03, 0.2, 1.0, 3.0, 7.0].map(nice), [0.05, 0.2, 1.0, 5.0, 10.0]);
        assert_eq!(number(0.1, 0.05), "0.10");
        assert_eq!(number(20.0, 5.0), "20");
        assert_eq!(number(2e-6, 1e-6), "2e-6");
    }

    #[test]
    fn the_mean_of_equal_losses_is_that_loss_from_the_first_step_on() {
        let (smooth, span) = smoothed(&[0.25; 40]);
        assert_eq!(span, 10);
        assert!(smooth.iter().all(|mean| (mean - 0.25).abs() < 1e-12));
        // Two steps: weights 0.9 and 1.
        let (smooth, _) = smoothed(&[1.0, 0.0]);
        assert!((smooth[1] - 0.9 / 1.9).abs() < 1e-12);
    }

    #[test]
    fn every_shape_is_on_the_picture_whatever_the_losses_are() {
        for losses in [
            vec![0.1],
            vec![0.0; 3],
            vec![1e30, 1e-30],
            vec![f32::INFINITY, 1.0],
            vec![0.2; 20_000],
        ] {
            for shape in curve(&losses) {
                let points = match shape {
                    Shape::Line { points, .. } => points,
                    Shape::Dots { points, .. } => {
                        assert!(points.len() <= MOST_DOTS);
                        points
                    }
                    Shape::Text { at, .. } => vec![at],
                };
                for [x, y] in points {
                    assert!((0.0..=WIDTH).contains(&x) && (0.0..=HEIGHT).contains(&y), "{x} {y}");
                }
            }
        }
    }
}
