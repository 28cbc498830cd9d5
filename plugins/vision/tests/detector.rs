//! The real YOLOX-nano against numbers that ONNX Runtime gave: `tests/peers/vision/reference.py` writes
//! them, for pictures that both sides compute. Photos are compared by `tests/peers/vision/run.sh`.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports")]
#![expect(clippy::print_stderr, reason = "a test that is left out says so")]

use std::path::{Path, PathBuf};

use qudao_plugin_vision::config::Config;
use qudao_plugin_vision::model::Model;
use qudao_plugin_vision::ops::Grid;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

const ONNX: &str = "e8af074932d4ed7e232278e3055cefcdea3edf178874a3694ae292649fb464dd";
const SIDE: u16 = 416;

#[derive(Deserialize)]
struct Reference {
    kind: u16,
    places: usize,
    sum: f64,
    at: Vec<usize>,
    values: Vec<f32>,
}

/// The file that `QUDAO_YOLOX_ONNX` names, converted.
fn weights(folder: &Path) -> Option<PathBuf> {
    #[expect(clippy::disallowed_methods, reason = "the test's own setting")]
    let Ok(path) = std::env::var("QUDAO_YOLOX_ONNX") else {
        eprintln!(
            "LEFT OUT: the detector is not compared with ONNX Runtime. Set QUDAO_YOLOX_ONNX to \
             yolox_nano.onnx (sha256 {ONNX}) of the YOLOX project's release 0.1.1rc0"
        );
        return None;
    };
    let sum = hex::encode(Sha256::digest(std::fs::read(&path).unwrap()));
    assert_eq!(sum, ONNX, "{path} is another file");
    let to = folder.join("yolox-nano.safetensors");
    qudao_models::convert_detector(path.as_ref(), &to).unwrap();
    Some(to)
}

/// The pictures of `reference.py`.
fn picture(kind: u16) -> Grid {
    let side = i32::from(SIDE);
    let value = |y: i32, x: i32, c: i32| match kind {
        0 => (x * 3 + y * 5 + c * 40 + x * y / 16) % 256,
        1 if (x / 32 + y / 32) % 2 == 0 => 220 - 40 * c,
        1 => 30 + 50 * c,
        _ => ((x - 208).pow(2) + (y - 180).pow(2)) / (40 + 9 * c) % 256,
    };
    let mut values = Vec::new();
    for y in 0..side {
        for x in 0..side {
            values.extend((0..3).map(|c| f32::from(u8::try_from(value(y, x, c)).unwrap())));
        }
    }
    Grid { height: usize::from(SIDE), width: usize::from(SIDE), channels: 3, values }
}

#[test]
fn every_number_is_within_a_thousandth_of_onnx_runtimes() {
    let folder = tempfile::tempdir().unwrap();
    let Some(path) = weights(folder.path()) else { return };
    let references: Vec<Reference> = serde_json::from_str(include_str!("reference.json")).unwrap();
    for (device, threads) in [("cpu", 1), ("cpu", 3), ("tensors", 1)] {
        let config =
            Config { device: device.to_owned(), threads: Some(threads), ..Config::new(&path) };
        let model = Model::load(&config).unwrap();
        assert_eq!((model.side(), model.labels().len()), (usize::from(SIDE), 80));
        // Candle's depthwise convolutions are slow: one picture shows that both paths agree.
        let few = if device == "cpu" { references.len() } else { 1 };
        for reference in &references[..few] {
            let sight = model.see(&picture(reference.kind)).unwrap();
            assert_eq!(sight.values.len(), reference.places * 85);
            for (at, expected) in reference.at.iter().zip(&reference.values) {
                let found = sight.values[*at];
                // ONNX Runtime's sigmoid is itself off by some 10⁻⁷.
                let least = if at % 85 < 4 { 1.0 } else { 1e-2 };
                let allowed = 1e-3 * expected.abs().max(least);
                assert!((found - expected).abs() <= allowed, "{at}: {found}, not {expected}");
            }
            let sum: f64 = sight.values.iter().map(|value| f64::from(*value)).sum();
            assert!((sum - reference.sum).abs() <= 1e-5 * reference.sum.abs());
        }
    }
}

#[test]
fn a_file_that_is_no_detector_is_refused_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    for bytes in
        [&b""[..], b"\x02\0\0\0\0\0\0\0{}", b"\xff\xff\xff\xff\xff\xff\xff\xff{}", &[7; 100]]
    {
        std::fs::write(&path, bytes).unwrap();
        assert!(Model::load(&Config::new(&path)).is_err());
    }
    assert!(Model::load(&Config::new(folder.path().join("absent"))).is_err());
}
