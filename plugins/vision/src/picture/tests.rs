use image::{ExtendedColorType, ImageEncoder as _, codecs};
use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { bytes: 1 << 20, pixels: 1_000_000 };

/// Left half red, right half blue, with a green top row: no two corners are alike.
fn drawing(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| match (y, x < width / 2) {
        (0, _) => Rgb([0, 255, 0]),
        (_, true) => Rgb([255, 0, 0]),
        (_, false) => Rgb([0, 0, 255]),
    })
}

fn encoded(picture: &RgbImage, format: ImageFormat) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    picture.write_to(&mut file, format).unwrap();
    file.into_inner()
}

const FORMATS: [ImageFormat; 4] =
    [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Gif];

#[test]
fn the_four_formats_are_read() {
    let picture = drawing(40, 20);
    for format in FORMATS {
        let read = unpack(&encoded(&picture, format), LIMITS).unwrap();
        assert_eq!((read.width(), read.height()), (40, 20), "{format:?}");
        let [red, _, blue] = read.get_pixel(5, 15).0;
        assert!(red > 200 && blue < 60, "{format:?}");
    }
}

/// A JPEG's EXIF segment that holds nothing but an orientation.
fn exif(orientation: u8) -> Vec<u8> {
    let tiff = [
        b'I',
        b'I',
        42,
        0,
        8,
        0,
        0,
        0,
        1,
        0,
        0x12,
        0x01,
        3,
        0,
        1,
        0,
        0,
        0,
        orientation,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
    ];
    let length = u16::try_from(2 + 6 + tiff.len()).unwrap();
    [&[0xff, 0xe1][..], &length.to_be_bytes(), b"Exif\0\0", &tiff].concat()
}

#[test]
fn a_photo_is_turned_as_its_exif_data_says() {
    let plain = encoded(&drawing(40, 20), ImageFormat::Jpeg);
    let turned = |orientation| {
        let bytes = [&plain[..2], &exif(orientation), &plain[2..]].concat();
        unpack(&bytes, LIMITS).unwrap()
    };
    assert_eq!(turned(1), unpack(&plain, LIMITS).unwrap());
    // 6: turned clockwise, so what was at the left is at the top.
    let right = turned(6);
    assert_eq!((right.width(), right.height()), (20, 40));
    let [top, bottom] = [right.get_pixel(10, 5).0, right.get_pixel(10, 35).0];
    assert!(top[0] > 200 && bottom[2] > 200, "{top:?} {bottom:?}");
    // 3: upside down.
    let over = turned(3).get_pixel(35, 10).0;
    assert!(over[0] > 200, "{over:?}");
}

#[test]
fn what_shows_through_is_white() {
    let mut file = Vec::new();
    let pixels = [[255u8, 0, 0, 0], [255, 0, 0, 255]].concat();
    codecs::png::PngEncoder::new(&mut file)
        .write_image(&pixels, 2, 1, ExtendedColorType::Rgba8)
        .unwrap();
    let read = unpack(&file, LIMITS).unwrap();
    assert_eq!(read.as_raw(), &[255, 255, 255, 255, 0, 0]);
}

#[test]
fn more_bytes_than_are_read_are_refused() {
    let refused = unpack(&vec![0; LIMITS.bytes + 1], LIMITS).unwrap_err();
    assert!(matches!(refused, PictureError::Bytes { .. }), "{refused}");
}

#[test]
fn other_formats_and_no_pictures_are_refused() {
    for bytes in [&b""[..], b"hello", b"BM\x3a\0\0\0", b"%PDF-1.7", b"<svg/>"] {
        let refused = unpack(bytes, LIMITS).unwrap_err();
        assert!(matches!(refused, PictureError::Format), "{refused}");
    }
}

/// A PNG whose header claims a size; what follows is a stream of zeros that unpacks to a thousand times
/// its length.
fn bomb(width: u32, height: u32) -> Vec<u8> {
    let mut file = encoded(&RgbImage::new(1, 1), ImageFormat::Png);
    file[16..20].copy_from_slice(&width.to_be_bytes());
    file[20..24].copy_from_slice(&height.to_be_bytes());
    let crc = crc(&file[12..29]);
    file[29..33].copy_from_slice(&crc.to_be_bytes());
    file
}

fn crc(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    };
    !bytes.iter().fold(u32::MAX, step)
}

#[test]
fn a_claim_of_a_billion_pixels_is_refused_before_they_are_allocated() {
    for (width, height) in [(50_000, 50_000), (u32::MAX >> 1, 1), (2_000_000, 1000), (1001, 1000)] {
        let refused = unpack(&bomb(width, height), LIMITS).unwrap_err();
        assert!(
            matches!(refused, PictureError::Pixels { .. } | PictureError::Damaged(_)),
            "{refused}"
        );
    }
}

#[test]
fn a_picture_lies_at_the_top_left_of_its_square() {
    for (width, height) in [(40, 20), (20, 40), (1, 300), (300, 1), (1, 1), (1000, 999)] {
        let square = square(&drawing(width, height), 64, Colours::BgrBytes);
        assert_eq!(square.grid.values.len(), 64 * 64 * 3);
        let longer = f32::from(u16::try_from(width.max(height)).unwrap());
        assert!((square.scale - 64.0 / longer).abs() < 1e-4);
        // Its first row is green, the grey is beyond its shorter side.
        if width > 1 && height > 1 && width.max(height) <= 64 {
            assert!(square.grid.values[1] > 100.0);
        }
        if width != height && width.abs_diff(height) > 10 {
            assert_eq!(square.grid.values[64 * 64 * 3 - 3..], [114.0; 3]);
        }
    }
}

#[test]
fn a_picture_of_the_squares_size_stays_as_it_is() {
    let picture = drawing(64, 64);
    let bgr = square(&picture, 64, Colours::BgrBytes);
    let rgb = square(&picture, 64, Colours::RgbUnit);
    for (at, pixel) in picture.pixels().enumerate() {
        let [red, green, blue] = pixel.0.map(f32::from);
        assert_eq!(bgr.grid.values[3 * at..][..3], [blue, green, red]);
        assert_eq!(rgb.grid.values[3 * at..][..3], [red, green, blue].map(|value| value / 255.0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// A picture with some bytes changed, and cut off somewhere, is read or refused.
    #[test]
    fn a_damaged_picture_is_read_or_refused(
        format in 0usize..FORMATS.len(),
        changes in proptest::collection::vec((0usize..4000, 0u8..), 0..12),
        keep in 0.3f64..1.2,
    ) {
        let mut bytes = encoded(&drawing(50, 30), FORMATS[format]);
        for (at, value) in changes {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss,
            reason = "a part of a length")]
        let length = (bytes.len() as f64 * keep) as usize;
        bytes.truncate(length);
        if let Ok(picture) = unpack(&bytes, LIMITS) {
            prop_assert!(u64::from(picture.width()) * u64::from(picture.height()) <= LIMITS.pixels);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(0u8.., 0..300), format in 0usize..4) {
        let magic: [&[u8]; 4] = [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBP", b"GIF89a"];
        drop(unpack(&[magic[format], &bytes].concat(), LIMITS));
    }
}
