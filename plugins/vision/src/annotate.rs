//! Boxes and labels drawn into a picture.

use ab_glyph::{Font as _, FontRef, Glyph, InvalidFont, PxScale, ScaleFont as _, point};
use image::{DynamicImage, ImageFormat, Rgb, RgbImage, imageops::FilterType};

/// The longer side of a picture that is returned: larger ones are made smaller first, which bounds
/// what is sent on.
const SIDE_MAX: u32 = 1280;
/// Heights of a line of words, of which a Chinese character takes seven tenths: what is read without effort
/// on a phone, where the picture is small.
const LINE: std::ops::RangeInclusive<u32> = 20..=48;
/// Lines of words that the longer side has room for.
const LINES: u32 = 24;
/// Colours that are told apart by people of any colour vision, on dark and on light; black is read well
/// on each of them.
const COLOURS: [[u8; 3]; 6] =
    [[230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [213, 94, 0], [204, 121, 167]];

/// A box to draw, in pixels of the picture.
#[derive(Clone, Debug)]
pub struct Mark {
    /// Left, top, right and bottom.
    pub edges: [f32; 4],
    /// What to write; letters that the font does not have become an empty box.
    pub label: String,
    /// Boxes of the same number have the same colour.
    pub class: usize,
}

/// What boxes and labels are drawn with.
#[derive(Debug)]
pub struct Pen(FontRef<'static>);

impl Pen {
    /// A pen with the plugin's own font, for Latin letters and Chinese.
    ///
    /// # Errors
    /// [`InvalidFont`] if the library was built with a file that is none.
    pub fn new() -> Result<Self, InvalidFont> {
        FontRef::try_from_slice(include_bytes!("../font/labels.otf")).map(Self)
    }

    /// The picture with its marks as a JPEG file.
    ///
    /// # Errors
    /// What the encoder says, which is not expected of a picture in memory.
    pub fn annotate(
        &self,
        picture: &RgbImage,
        marks: &[Mark],
    ) -> Result<Vec<u8>, image::ImageError> {
        let longer = picture.width().max(picture.height());
        let (mut canvas, scale) = if longer > SIDE_MAX {
            let scale = side(SIDE_MAX) / side(longer);
            let small = |length: u32| pixel(side(length) * scale).max(1);
            let (width, height) = (small(picture.width()), small(picture.height()));
            (image::imageops::resize(picture, width, height, FilterType::Triangle), scale)
        } else {
            (picture.clone(), 1.0)
        };
        let longer = canvas.width().max(canvas.height());
        let line = (longer / LINES).clamp(*LINE.start(), *LINE.end());
        // Boxes first, so that no label is crossed out; the surest last, on top.
        for mark in marks.iter().rev() {
            frame(&mut canvas, mark, scale, line / 8);
        }
        for mark in marks.iter().rev() {
            self.label(&mut canvas, mark, scale, line);
        }
        let mut file = std::io::Cursor::new(Vec::new());
        DynamicImage::ImageRgb8(canvas).write_to(&mut file, ImageFormat::Jpeg)?;
        Ok(file.into_inner())
    }

    /// A mark's words on a ground of its colour: above its box where there is room, else inside of it,
    /// and never beyond an edge of the picture that is wide enough.
    fn label(&self, canvas: &mut RgbImage, mark: &Mark, scale: f32, line: u32) {
        let colour = COLOURS[mark.class % COLOURS.len()];
        let [left, top, ..] = mark.edges.map(|edge| pixel(edge * scale));
        let (glyphs, wide) = self.set(&mark.label, line);
        let margin = line / 5;
        let width = pixel(wide.ceil()).saturating_add(2 * margin);
        let y = top.checked_sub(line).unwrap_or(top).min(canvas.height().saturating_sub(line));
        let x = left.min(canvas.width().saturating_sub(width));
        fill(canvas, [x, y, x.saturating_add(width), y + line], Rgb(colour));
        for glyph in glyphs {
            let Some(outline) = self.0.outline_glyph(glyph) else { continue };
            let bounds = outline.px_bounds();
            let (from_x, from_y) = (side(x + margin) + bounds.min.x, side(y) + bounds.min.y);
            outline.draw(|across, down, cover| {
                let (at_x, at_y) = (pixel(from_x + side(across)), pixel(from_y + side(down)));
                if at_x < canvas.width() && at_y < canvas.height() {
                    let ink = |ground: u8| channel(f32::from(ground) * (1.0 - cover.min(1.0)));
                    let Rgb(ground) = *canvas.get_pixel(at_x, at_y);
                    canvas.put_pixel(at_x, at_y, Rgb(ground.map(ink)));
                }
            });
        }
    }

    /// Words in one line of this height: their glyphs, and how wide they are.
    fn set(&self, words: &str, line: u32) -> (Vec<Glyph>, f32) {
        let font = self.0.as_scaled(PxScale::from(side(line)));
        let mut glyphs = Vec::new();
        let (mut at, mut before) = (0.0, None);
        for letter in words.chars().filter(|letter| !letter.is_control()) {
            let id = font.glyph_id(letter);
            at += before.map_or(0.0, |before| font.kern(before, id));
            glyphs.push(id.with_scale_and_position(font.scale(), point(at, font.ascent())));
            at += font.h_advance(id);
            before = Some(id);
        }
        (glyphs, at)
    }
}

/// A mark's box, in lines of this width.
fn frame(canvas: &mut RgbImage, mark: &Mark, scale: f32, line: u32) {
    let colour = Rgb(COLOURS[mark.class % COLOURS.len()]);
    let [left, top, right, bottom] = mark.edges.map(|edge| pixel(edge * scale));
    fill(canvas, [left, top, right, top + line], colour);
    fill(canvas, [left, bottom.saturating_sub(line), right, bottom], colour);
    fill(canvas, [left, top, left + line, bottom], colour);
    fill(canvas, [right.saturating_sub(line), top, right, bottom], colour);
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

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a byte")]
fn channel(value: f32) -> u8 {
    value.round() as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREY: Rgb<u8> = Rgb([128, 128, 128]);

    fn mark(edges: [f32; 4], label: &str) -> Mark {
        Mark { edges, label: label.to_owned(), class: 0 }
    }

    fn drawn(picture: &RgbImage, marks: &[Mark]) -> RgbImage {
        let file = Pen::new().unwrap().annotate(picture, marks).unwrap();
        image::load_from_memory(&file).unwrap().into_rgb8()
    }

    #[test]
    fn a_box_and_its_label_are_drawn_within_the_picture() {
        let grey = RgbImage::from_pixel(200, 100, GREY);
        let drawn = drawn(&grey, &[mark([20.0, 30.0, 120.0, 90.0], "cat 62%")]);
        let far = |x, y| drawn.get_pixel(x, y).0[2].abs_diff(128) > 60;
        assert!(far(20, 60) && far(119, 60) && far(70, 31) && far(70, 89), "four sides");
        assert!(!far(70, 60), "the inside stays as it was");
        // Boxes at, and letters beyond, every edge.
        let pen = Pen::new().unwrap();
        for edges in [[0.0, 0.0, 200.0, 100.0], [199.0, 99.0, 200.0, 100.0], [0.0; 4]] {
            pen.annotate(&grey, &[mark(edges, "ein sehr langes 标签, das nirgends Platz hat")])
                .unwrap();
        }
        let dot = RgbImage::from_pixel(1, 1, GREY);
        pen.annotate(&dot, &[mark([0.0, 0.0, 1.0, 1.0], "cat 62%")]).unwrap();
    }

    #[test]
    fn each_name_of_either_language_has_letters_of_its_own() {
        let pen = Pen::new().unwrap();
        let missing = pen.0.glyph_id('\u{10ffff}');
        for letter in "person 93% äßéñ 人自行车红绿灯风筝缺陷".chars().filter(|c| *c != ' ')
        {
            assert_ne!(pen.0.glyph_id(letter), missing, "{letter}");
            assert!(pen.set(&letter.to_string(), 20).1 > 0.0, "{letter}");
        }
        // What is written can be told from the ground and from other words.
        let grey = RgbImage::from_pixel(300, 100, GREY);
        let label = |words: &str| drawn(&grey, &[mark([10.0, 40.0, 250.0, 90.0], words)]);
        let ink = |picture: &RgbImage| {
            let dark = |pixel: &&Rgb<u8>| pixel.0.iter().all(|value| *value < 90);
            picture.pixels().filter(dark).count()
        };
        let (cat, dog) = (label("猫"), label("狗"));
        assert!(ink(&cat) > 15 && ink(&dog) > 15, "{} {}", ink(&cat), ink(&dog));
        assert_ne!(cat, dog);
    }

    #[test]
    fn a_large_picture_is_returned_smaller() {
        let grey = RgbImage::new(3000, 1500);
        let drawn = drawn(&grey, &[]);
        assert_eq!((drawn.width(), drawn.height()), (1280, 640));
    }
}
