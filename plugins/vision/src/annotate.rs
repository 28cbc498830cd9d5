//! Boxes and labels drawn into a picture.

use font8x8::legacy::BASIC_LEGACY;
use image::{DynamicImage, ImageFormat, Rgb, RgbImage, imageops::FilterType};

/// The longer side of a picture that is returned: larger ones are made smaller first, which bounds
/// what is sent on.
const SIDE_MAX: u32 = 1280;
/// Width and height of a letter before it is enlarged.
const LETTER: u32 = 8;
/// Colours that are told apart by people of any colour vision, on dark and on light.
const COLOURS: [[u8; 3]; 6] =
    [[230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [213, 94, 0], [204, 121, 167]];

/// A box to draw, in pixels of the picture.
#[derive(Clone, Debug)]
pub struct Mark {
    /// Left, top, right and bottom.
    pub edges: [f32; 4],
    /// What to write; letters beyond ASCII become question marks.
    pub label: String,
    /// Boxes of the same number have the same colour.
    pub class: usize,
}

/// The picture with its marks as a JPEG file.
///
/// # Errors
/// What the encoder says, which is not expected of a picture in memory.
pub fn annotate(picture: &RgbImage, marks: &[Mark]) -> Result<Vec<u8>, image::ImageError> {
    let longer = picture.width().max(picture.height());
    let (mut canvas, scale) = if longer > SIDE_MAX {
        let scale = side(SIDE_MAX) / side(longer);
        let small = |length: u32| pixel(side(length) * scale).max(1);
        let (width, height) = (small(picture.width()), small(picture.height()));
        (image::imageops::resize(picture, width, height, FilterType::Triangle), scale)
    } else {
        (picture.clone(), 1.0)
    };
    let zoom = (canvas.width().max(canvas.height()) / 400).clamp(1, 3);
    // The surest are drawn last, on top.
    for mark in marks.iter().rev() {
        draw(&mut canvas, mark, scale, zoom);
    }
    let mut file = std::io::Cursor::new(Vec::new());
    DynamicImage::ImageRgb8(canvas).write_to(&mut file, ImageFormat::Jpeg)?;
    Ok(file.into_inner())
}

fn draw(canvas: &mut RgbImage, mark: &Mark, scale: f32, zoom: u32) {
    let colour = Rgb(COLOURS[mark.class % COLOURS.len()]);
    let [left, top, right, bottom] = mark.edges.map(|edge| pixel(edge * scale));
    let line = zoom + 1;
    fill(canvas, [left, top, right, top + line], colour);
    fill(canvas, [left, bottom.saturating_sub(line), right, bottom], colour);
    fill(canvas, [left, top, left + line, bottom], colour);
    fill(canvas, [right.saturating_sub(line), top, right, bottom], colour);
    let letters = u32::try_from(mark.label.chars().count()).unwrap_or(u32::MAX);
    let height = (LETTER + 2) * zoom;
    let width = letters.saturating_mul(LETTER).saturating_add(2).saturating_mul(zoom);
    // Above the box where there is room, else inside of it; never beyond the right edge.
    let y = top.checked_sub(height).unwrap_or(top);
    let x = left.min(canvas.width().saturating_sub(width));
    fill(canvas, [x, y, x.saturating_add(width), y + height], colour);
    for (at, letter) in (0u32..).zip(mark.label.chars()) {
        write(canvas, x + zoom + at * LETTER * zoom, y + zoom, letter, zoom);
    }
}

fn write(canvas: &mut RgbImage, x: u32, y: u32, letter: char, zoom: u32) {
    let place = usize::try_from(u32::from(letter)).unwrap_or(usize::MAX);
    let rows = BASIC_LEGACY.get(place).unwrap_or(&BASIC_LEGACY[usize::from(b'?')]);
    for (row, bits) in (0u32..).zip(rows) {
        for column in (0..LETTER).filter(|column| bits >> column & 1 == 1) {
            let (x, y) = (x + column * zoom, y + row * zoom);
            fill(canvas, [x, y, x + zoom, y + zoom], Rgb([0, 0, 0]));
        }
    }
}

fn fill(canvas: &mut RgbImage, [left, top, right, bottom]: [u32; 4], colour: Rgb<u8>) {
    for y in top..bottom.min(canvas.height()) {
        for x in left..right.min(canvas.width()) {
            canvas.put_pixel(x, y, colour);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a side of a picture")]
fn side(length: u32) -> f32 {
    length as f32
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "within a picture, and a cast of anything else stays within the type's bounds"
)]
fn pixel(at: f32) -> u32 {
    at.round() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_and_its_label_are_drawn_within_the_picture() {
        let grey = RgbImage::from_pixel(200, 100, Rgb([128, 128, 128]));
        let edges = [20.0, 30.0, 120.0, 90.0];
        let mark = |edges, label: &str| Mark { edges, label: label.to_owned(), class: 0 };
        let file = annotate(&grey, &[mark(edges, "cat 62%")]).unwrap();
        let drawn = image::load_from_memory(&file).unwrap().into_rgb8();
        let far = |x, y| drawn.get_pixel(x, y).0[2].abs_diff(128) > 60;
        assert!(far(20, 60) && far(119, 60) && far(70, 31) && far(70, 89), "four sides");
        assert!(!far(70, 60), "the inside stays as it was");
        // Boxes at, and letters beyond, every edge.
        for edges in [[0.0, 0.0, 200.0, 100.0], [199.0, 99.0, 200.0, 100.0], [0.0; 4]] {
            annotate(&grey, &[mark(edges, "ein sehr langes 标签, das nirgends Platz hat")])
                .unwrap();
        }
    }

    #[test]
    fn a_large_picture_is_returned_smaller() {
        let grey = RgbImage::new(3000, 1500);
        let file = annotate(&grey, &[]).unwrap();
        let drawn = image::load_from_memory(&file).unwrap();
        assert_eq!((drawn.width(), drawn.height()), (1280, 640));
    }
}
