//! Shapes as SVG.

use std::fmt::Write as _;

use super::scene::{Anchor, Colour, HEIGHT, Shape, TEXT, WIDTH};

/// A whole file. Texts are plain words and numbers.
pub(super) fn write(shapes: &[Shape]) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\" aria-label=\"Loss of every step\" \
         font-family=\"DejaVu Sans, Verdana, sans-serif\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    for shape in shapes {
        add(&mut svg, shape).expect("a String takes every write");
    }
    svg.push_str("</svg>\n");
    svg
}

fn add(svg: &mut String, shape: &Shape) -> std::fmt::Result {
    match shape {
        Shape::Line { points, width, colour } => {
            write!(
                svg,
                "<path fill=\"none\" stroke=\"{}\" stroke-width=\"{width}\"",
                hex(*colour)
            )?;
            svg.push_str(" stroke-linejoin=\"round\" d=\"");
            for (index, [x, y]) in points.iter().enumerate() {
                write!(svg, "{}{x:.1} {y:.1}", if index == 0 { "M" } else { "L" })?;
            }
        }
        // Lines of no length with round ends: a few bytes for each dot.
        Shape::Dots { points, radius, colour } => {
            let (colour, width) = (hex(*colour), 2.0 * radius);
            write!(svg, "<path fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"")?;
            svg.push_str(" stroke-linecap=\"round\" d=\"");
            for [x, y] in points {
                write!(svg, "M{x:.1} {y:.1}h0")?;
            }
        }
        Shape::Text { at: [x, y], size, anchor, upright, text } => {
            let anchor = match anchor {
                Anchor::Start => "start",
                Anchor::Middle => "middle",
                Anchor::End => "end",
            };
            let colour = hex(TEXT);
            write!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\" fill=\"{colour}\"")?;
            write!(svg, " text-anchor=\"{anchor}\"")?;
            if *upright {
                write!(svg, " transform=\"rotate(-90 {x:.1} {y:.1})\"")?;
            }
            return writeln!(svg, ">{text}</text>");
        }
    }
    svg.push_str("\"/>\n");
    Ok(())
}

fn hex([red, green, blue]: Colour) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_shape_is_an_element() {
        let points = vec![[1.0, 2.0], [3.0, 4.5]];
        let svg = write(&[
            Shape::Line { points: points.clone(), width: 2.0, colour: [31, 78, 150] },
            Shape::Dots { points, radius: 1.5, colour: [0, 0, 0] },
            Shape::Text {
                at: [5.0, 6.0],
                size: 13.0,
                anchor: Anchor::End,
                upright: true,
                text: "loss".to_owned(),
            },
        ]);
        assert!(svg.contains("stroke=\"#1f4e96\" stroke-width=\"2\""), "{svg}");
        assert!(svg.contains("d=\"M1.0 2.0L3.0 4.5\""), "{svg}");
        assert!(svg.contains("d=\"M1.0 2.0h0M3.0 4.5h0\""), "{svg}");
        assert!(svg.contains("text-anchor=\"end\" transform=\"rotate(-90 5.0 6.0)\">loss<"));
    }
}
