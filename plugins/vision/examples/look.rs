//! Looks at pictures without the platform: for comparisons with other engines.
//!
//! `look convert DETECTOR.onnx OUT.safetensors` rewrites a detector.
//!
//! `look WEIGHTS [--side N] [--threads N] [--device D] [--raw FOLDER] [--draw FOLDER] [--rounds N]
//! PICTURE…` prints a line of JSON for each picture. `--raw` writes what the network gets and says as 32-bit
//! numbers; `--draw` writes the pictures with what was found drawn into them; `--rounds`
//! measures the network alone and prints the milliseconds of the median round.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a program for the command line")]

use std::path::{Path, PathBuf};
use std::time::Instant;

use qudao_plugin_vision::annotate::{Mark, Pen};
use qudao_plugin_vision::config::Config;
use qudao_plugin_vision::finding::Finding;
use qudao_plugin_vision::model::Model;
use qudao_plugin_vision::picture::{Limits, square, unpack};
use serde_json::json;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let weights = arguments.next().unwrap();
    if weights == "convert" {
        let [from, to] = [(); 2].map(|()| PathBuf::from(arguments.next().unwrap()));
        qudao_models::convert_detector(&from, &to).unwrap();
        return;
    }
    let mut config = Config::new(weights);
    let (mut raw, mut draw, mut rounds) = (None::<PathBuf>, None::<PathBuf>, 0);
    let mut pictures = Vec::new();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().unwrap();
        match argument.as_str() {
            "--side" => config.side = Some(value().parse().unwrap()),
            "--threads" => config.threads = Some(value().parse().unwrap()),
            "--device" => config.device = value(),
            "--raw" => raw = Some(value().into()),
            "--draw" => draw = Some(value().into()),
            "--rounds" => rounds = value().parse().unwrap(),
            _ => pictures.push(PathBuf::from(argument)),
        }
    }
    let model = Model::load(&config).unwrap();
    for path in pictures {
        let bytes = std::fs::read(&path).unwrap();
        let seen = model.look(&bytes, None, None).unwrap();
        let square = square(&seen.picture, model.side(), model.colours());
        if let Some(folder) = &raw {
            let stem = path.file_stem().unwrap().to_string_lossy();
            write(&folder.join(format!("{stem}.in")), &square.grid.values);
            write(&folder.join(format!("{stem}.out")), &model.see(&square.grid).unwrap().values);
        }
        if let Some(folder) = &draw {
            let mark = |finding: &Finding| Mark {
                edges: finding.edges,
                label: format!("{} {:.0}%", model.label(finding), finding.score * 100.0),
                class: finding.class,
            };
            let marks: Vec<Mark> = seen.findings.iter().map(mark).collect();
            let file = Pen::new().unwrap().annotate(&seen.picture, &marks).unwrap();
            std::fs::write(folder.join(path.with_extension("jpg").file_name().unwrap()), file)
                .unwrap();
        }
        let found = seen.findings.iter().map(|finding| {
            json!({ "label": model.label(finding), "score": finding.score, "edges": finding.edges })
        });
        let found: Vec<_> = found.collect();
        let time = (rounds > 0).then(|| {
            let network = median(rounds, || drop(model.see(&square.grid).unwrap()));
            let whole = median(rounds, || drop(model.look(&bytes, None, None).unwrap()));
            let unpacked = median(rounds, || drop(unpack(&bytes, Limits::default()).unwrap()));
            json!({ "network_ms": network, "whole_ms": whole, "unpack_ms": unpacked })
        });
        println!("{}", json!({ "picture": path, "found": found, "time": time }));
    }
}

fn median(rounds: usize, mut run: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..rounds)
        .map(|_| {
            let begun = Instant::now();
            run();
            begun.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[rounds / 2]
}

fn write(path: &Path, values: &[f32]) {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    std::fs::write(path, bytes).unwrap();
}
