//! A small random model with a tokenizer: what it says means nothing, but every rule of the engine
//! shows in it.

use std::path::Path;

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value;

use super::*;
use crate::decoder::tests::{Extent, write_with};

const TEMPLATE: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n\
     {% endfor %}<|im_start|>assistant\n";
/// Pieces of JSON and words, so that a token can be several characters.
const PIECES: [&str; 12] =
    ["ab", "{\"", "\":", "\": ", "\", ", "},", "true", "null", "12", "id", "[{", "-1"];

/// GPT-2's printable stand-in for a byte.
fn stand_in(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        return char::from(byte);
    }
    let place = (0..byte).filter(|other| !printable(*other)).count();
    char::from_u32(0x100 + u32::try_from(place).unwrap()).unwrap()
}

pub(crate) fn write(path: &Path) {
    let written = |text: &str| text.bytes().map(stand_in).collect::<String>();
    let mut names: Vec<String> = (0..=255).map(|byte| stand_in(byte).to_string()).collect();
    names.extend(PIECES.iter().map(|piece| written(piece)));
    let mut types = vec![1u32; names.len()];
    names.extend(["<|im_start|>", "<|im_end|>"].map(str::to_owned));
    types.extend([3, 3]);
    let strings = |all: &[String]| Value::Array(all.iter().cloned().map(Value::String).collect());
    let extra = [
        ("tokenizer.ggml.model", Value::String("gpt2".to_owned())),
        ("tokenizer.ggml.tokens", strings(&names)),
        ("tokenizer.ggml.token_type", Value::Array(types.into_iter().map(Value::U32).collect())),
        ("tokenizer.ggml.merges", strings(&["a b".to_owned()])),
        ("tokenizer.ggml.eos_token_id", Value::U32(u32::try_from(names.len() - 1).unwrap())),
        ("tokenizer.chat_template", Value::String(TEMPLATE.to_owned())),
    ];
    let extent = Extent { vocabulary: names.len(), context: 1024 };
    write_with(path, "llama", 16, Some(GgmlDType::Q8_0), extent, &extra);
}

/// An engine with so many places.
pub(crate) fn engine(places: usize) -> Engine {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("tiny.gguf");
    write(&path);
    let config = Config { max_sequences: places, threads: Some(2), ..Config::new(path) };
    Engine::load(&config, &mut |_| ()).unwrap()
}

/// A job with a bit of chance, and nothing else to it.
pub(crate) fn job(question: &str, seed: u64) -> Job {
    Job {
        messages: vec![Message::new("user", question)],
        max_tokens: 24,
        stop: Vec::new(),
        settings: Settings {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            repeat_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            seed,
        },
        form: None,
        logprobs: None,
        salt: String::new(),
    }
}

/// Everything that came of the jobs that are in the engine, by their numbers.
pub(crate) fn run(engine: &mut Engine) -> std::collections::BTreeMap<u64, Vec<Output>> {
    let mut all = std::collections::BTreeMap::<u64, Vec<Output>>::new();
    for _ in 0..20_000 {
        if !engine.has_work() {
            break;
        }
        for (id, output) in engine.step().unwrap() {
            all.entry(id).or_default().push(output);
        }
    }
    all
}

/// The text of a reply.
pub(crate) fn text(outputs: &[Output]) -> String {
    let texts = outputs.iter().filter_map(|output| match output {
        Output::Text { text, .. } => Some(text.as_str()),
        _ => None,
    });
    texts.collect()
}

/// How a reply ended.
pub(crate) fn finish(outputs: &[Output]) -> Finish {
    match outputs.last() {
        Some(Output::End { finish, .. }) => *finish,
        other => panic!("ended with {other:?}"),
    }
}
