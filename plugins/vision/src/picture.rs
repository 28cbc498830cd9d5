//! From the bytes of a picture to what a network looks at.

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder as _, ImageFormat, ImageReader, Rgb, RgbImage};

use crate::error::PictureError;
use crate::network::Colours;
use crate::ops::Grid;

/// What stands around a picture that is not square, in both families.
const GREY: f32 = 114.0;

/// How much is read of what a stranger sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the file.
    pub bytes: usize,
    /// Pixels that it unpacks to.
    pub pixels: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 20 << 20, pixels: 50_000_000 }
    }
}

/// Unpacks a JPEG, a PNG, a WebP or the first frame of a GIF and turns it as its EXIF data says.
/// What shows through is white.
///
/// # Errors
/// [`PictureError`]; sizes are compared with the limits before anything of that size is allocated.
pub fn unpack(bytes: &[u8], limits: Limits) -> Result<RgbImage, PictureError> {
    if bytes.len() > limits.bytes {
        return Err(PictureError::Bytes { bytes: bytes.len(), limit: limits.bytes });
    }
    let damaged = |error: image::ImageError| PictureError::Damaged(error.to_string());
    let format = image::guess_format(bytes).map_err(|_| PictureError::Format)?;
    use ImageFormat::{Gif, Jpeg, Png, WebP};
    if !matches!(format, Gif | Jpeg | Png | WebP) {
        return Err(PictureError::Format);
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut allowed = image::Limits::no_limits();
    // Sixteen bytes a pixel is the largest form; some decoders keep a second copy for a while.
    allowed.max_alloc = Some(limits.pixels.saturating_mul(32));
    reader.limits(allowed);
    let mut decoder = reader.into_decoder().map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > limits.pixels {
        return Err(PictureError::Pixels { width, height, limit: limits.pixels });
    }
    if width == 0 || height == 0 {
        return Err(PictureError::Damaged("it has no pixels".to_owned()));
    }
    let turn = decoder.orientation().map_err(damaged)?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(damaged)?;
    picture.apply_orientation(turn);
    Ok(opaque(picture))
}

fn opaque(picture: DynamicImage) -> RgbImage {
    if !picture.color().has_alpha() {
        return picture.into_rgb8();
    }
    let picture = picture.into_rgba8();
    let mut out = RgbImage::new(picture.width(), picture.height());
    for (to, from) in out.pixels_mut().zip(picture.pixels()) {
        let [red, green, blue, alpha] = from.0;
        *to = Rgb([red, green, blue].map(|value| over_white(value, alpha)));
    }
    out
}

fn over_white(value: u8, alpha: u8) -> u8 {
    let (value, alpha) = (u32::from(value), u32::from(alpha));
    u8::try_from((value * alpha + 255 * (255 - alpha) + 127) / 255).unwrap_or(255)
}

/// A square picture for a network, with the original at its top left.
#[derive(Clone, Debug)]
pub struct Square {
    /// The numbers.
    pub grid: Grid,
    /// Pixels of the square for one of the original.
    pub scale: f32,
}

/// Scales a picture until it fits a square and fills the rest with grey. Between pixels it
/// interpolates in straight lines, without rounding to whole values.
pub fn square(picture: &RgbImage, side: usize, colours: Colours) -> Square {
    let (width, height) = (picture.width(), picture.height());
    let scale = (length(side) / f64::from(width)).min(length(side) / f64::from(height));
    let columns = samples(width, scale, side);
    let rows = samples(height, scale, side);
    let pixels = picture.as_raw();
    let pitch = 3 * width as usize;
    let (factor, order) = match colours {
        Colours::BgrBytes => (1.0, [2, 1, 0]),
        Colours::RgbUnit => (1.0 / 255.0, [0, 1, 2]),
    };
    let mut values = vec![GREY * factor; side * side * 3];
    for (out, row) in values.chunks_exact_mut(3 * side).zip(&rows) {
        let (above, below) =
            (&pixels[row.low * pitch..][..pitch], &pixels[row.high * pitch..][..pitch]);
        for (out, column) in out.chunks_exact_mut(3).zip(&columns) {
            for (out, channel) in out.iter_mut().zip(order) {
                let at = |line: &[u8], column: usize| f32::from(line[3 * column + channel]);
                let between = |line: &[u8]| {
                    let (left, right) = (at(line, column.low), at(line, column.high));
                    left + (right - left) * column.part
                };
                let (above, below) = (between(above), between(below));
                *out = (above + (below - above) * row.part) * factor;
            }
        }
    }
    #[expect(clippy::cast_possible_truncation, reason = "a ratio")]
    let scale = scale as f32;
    Square { grid: Grid { height: side, width: side, channels: 3, values }, scale }
}

/// Two neighbours of the original and how far to the second one.
struct Sample {
    low: usize,
    high: usize,
    part: f32,
}

/// For each pixel of the scaled side where its middle lies in the original.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "positions within a picture, not below zero"
)]
fn samples(original: u32, scale: f64, side: usize) -> Vec<Sample> {
    // A hair added: 416 / 640 × 640 must not fall to 415.
    let scaled = ((f64::from(original) * scale + 1e-6) as usize).clamp(1, side);
    let step = f64::from(original) / length(scaled);
    let last = original as usize - 1;
    let sample = |at: usize| {
        let middle = ((length(at) + 0.5) * step - 0.5).max(0.0);
        let low = (middle as usize).min(last);
        Sample { low, high: (low + 1).min(last), part: (middle - length(low)) as f32 }
    };
    (0..scaled).map(sample).collect()
}

#[expect(clippy::cast_precision_loss, reason = "sides of pictures")]
fn length(pixels: usize) -> f64 {
    pixels as f64
}

#[cfg(test)]
mod tests;
