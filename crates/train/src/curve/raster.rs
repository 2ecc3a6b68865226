//! Shapes as PNG, with a font of our own: no machine's fonts are asked, so the same losses give
//! the same bytes everywhere.

use image::ImageEncoder as _;
use image::codecs::png::PngEncoder;
use tiny_skia::{
    Color, FillRule, LineCap, LineJoin, Paint, Path, PathBuilder, Pixmap, Stroke, Transform,
};
use ttf_parser::{Face, OutlineBuilder};

use super::scene::{Anchor, Colour, HEIGHT, Shape, TEXT, WIDTH};

/// `DejaVu` Sans 2.37, cut down to ASCII; its licence is beside it.
const FONT: &[u8] = include_bytes!("DejaVuSans-ASCII.ttf");
/// Pixels to a unit.
const SCALE: f32 = 2.0;

/// A whole file.
pub(super) fn png(shapes: &[Shape]) -> Vec<u8> {
    let (width, height) = ((WIDTH * SCALE) as u32, (HEIGHT * SCALE) as u32);
    let mut canvas = Pixmap::new(width, height).expect("its size is a constant");
    canvas.fill(Color::WHITE);
    let face = Face::parse(FONT, 0).expect("the font is part of the program");
    for shape in shapes {
        draw(&mut canvas, &face, shape);
    }
    let rgb = canvas.pixels().iter().flat_map(|pixel| [pixel.red(), pixel.green(), pixel.blue()]);
    let mut bytes = Vec::new();
    PngEncoder::new(&mut bytes)
        .write_image(&rgb.collect::<Vec<u8>>(), width, height, image::ExtendedColorType::Rgb8)
        .expect("memory takes every write, and the size is a constant");
    bytes
}

fn draw(canvas: &mut Pixmap, face: &Face<'_>, shape: &Shape) {
    let scale = Transform::from_scale(SCALE, SCALE);
    match shape {
        Shape::Line { points, width, colour } => {
            let stroke = Stroke { width: *width, line_join: LineJoin::Round, ..Stroke::default() };
            let mut path = PathBuilder::new();
            for (index, [x, y]) in points.iter().enumerate() {
                if index == 0 { path.move_to(*x, *y) } else { path.line_to(*x, *y) }
            }
            if let Some(path) = path.finish() {
                canvas.stroke_path(&path, &paint(*colour), &stroke, scale, None);
            }
        }
        Shape::Dots { points, radius, colour } => {
            let stroke =
                Stroke { width: 2.0 * radius, line_cap: LineCap::Round, ..Stroke::default() };
            let mut path = PathBuilder::new();
            for [x, y] in points {
                path.move_to(*x, *y);
                path.line_to(*x, *y);
            }
            if let Some(path) = path.finish() {
                canvas.stroke_path(&path, &paint(*colour), &stroke, scale, None);
            }
        }
        Shape::Text { at: [x, y], size, anchor, upright, text } => {
            let Some((path, length)) = outline(face, text) else { return };
            let factor = size / f32::from(face.units_per_em());
            let before = match anchor {
                Anchor::Start => 0.0,
                Anchor::Middle => -length / 2.0,
                Anchor::End => -length,
            };
            // Fonts count upwards.
            let place = Transform::from_translate(before, 0.0)
                .post_scale(factor, -factor)
                .post_rotate(if *upright { -90.0 } else { 0.0 })
                .post_translate(*x, *y)
                .post_concat(scale);
            canvas.fill_path(&path, &paint(TEXT), FillRule::Winding, place, None);
        }
    }
}

fn paint([red, green, blue]: Colour) -> Paint<'static> {
    let mut paint = Paint { anti_alias: true, ..Paint::default() };
    paint.set_color_rgba8(red, green, blue, 255);
    paint
}

/// The outlines of a text and its length, in the font's units; none where nothing is to be seen.
fn outline(face: &Face<'_>, text: &str) -> Option<(Path, f32)> {
    let mut pen = Pen { path: PathBuilder::new(), x: 0.0 };
    for character in text.chars() {
        let Some(glyph) = face.glyph_index(character) else { continue };
        face.outline_glyph(glyph, &mut pen);
        pen.x += f32::from(face.glyph_hor_advance(glyph).unwrap_or_default());
    }
    Some((pen.path.finish()?, pen.x))
}

/// Puts a glyph's outlines where the text is.
struct Pen {
    path: PathBuilder,
    x: f32,
}

impl OutlineBuilder for Pen {
    fn move_to(&mut self, x: f32, y: f32) {
        self.path.move_to(self.x + x, y);
    }

    fn line_to(&mut self, x: f32, y: f32) {
        self.path.line_to(self.x + x, y);
    }

    fn quad_to(&mut self, x1: f32, y1: f32, x: f32, y: f32) {
        self.path.quad_to(self.x + x1, y1, self.x + x, y);
    }

    fn curve_to(&mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) {
        self.path.cubic_to(self.x + x1, y1, self.x + x2, y2, self.x + x, y);
    }

    fn close(&mut self) {
        self.path.close();
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn the_font_has_every_letter_that_is_written() {
        let face = Face::parse(FONT, 0).unwrap();
        for character in ' '..='~' {
            assert!(face.glyph_index(character).is_some(), "{character}");
        }
        let (_, one) = outline(&face, "0").unwrap();
        let (_, three) = outline(&face, "000").unwrap();
        assert!((three - 3.0 * one).abs() < 1e-3 && one > 0.0);
    }

    #[test]
    fn a_dot_is_where_it_belongs() {
        let dot = Shape::Dots { points: vec![[100.0, 50.0]], radius: 3.0, colour: [255, 0, 0] };
        let mut canvas = Pixmap::new(400, 200).unwrap();
        canvas.fill(Color::WHITE);
        draw(&mut canvas, &Face::parse(FONT, 0).unwrap(), &dot);
        let at = |x, y| canvas.pixel(x, y).unwrap();
        assert_eq!((at(200, 100).red(), at(200, 100).green()), (255, 0));
        assert_eq!(at(210, 100).green(), 255);
    }
}
