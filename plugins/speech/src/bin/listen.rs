//! Writes down sounds from the command line, as `tests/peers/speech` does: a line of JSON for each, with the
//! seconds that it took.
//!
//! `listen MODEL [--language xx] [--threads n] SOUND…`

#![expect(clippy::print_stdout, reason = "prints its findings")]

use std::{path::PathBuf, time::Instant};

use qudao_plugin_api::wire::Segment;
use qudao_plugin_speech::{
    config::Config,
    error::ListenError,
    model::{Model, Wishes},
};
use serde_json::json;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let model = words.next().ok_or("which model?")?;
    let mut config = Config { max_seconds: 3_600, max_bytes: 1 << 30, ..Config::new(model) };
    let mut sounds: Vec<PathBuf> = Vec::new();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--language" => config.language = words.next(),
            "--threads" => config.threads = words.next().and_then(|count| count.parse().ok()),
            sound => sounds.push(sound.into()),
        }
    }
    let model = Model::load(&config)?;
    for sound in sounds {
        let bytes = std::fs::read(&sound)?;
        let begun = Instant::now();
        let mut segments: Vec<Segment> = Vec::new();
        let mut take = |segment| {
            segments.push(segment);
            Ok::<(), ListenError>(())
        };
        let heard = model.listen(&bytes, Wishes::default(), &|| false, &mut take)?;
        let took = begun.elapsed().as_secs_f64();
        let name = sound.file_name().map(|name| name.to_string_lossy().into_owned());
        println!(
            "{}",
            json!({ "sound": name, "seconds": heard.seconds, "took": took, "segments": segments })
        );
    }
    Ok(())
}
