//! `qudao model card`.

use std::process::ExitCode;

use qudao_models::{Card, Measured};
use serde_json::json;

use crate::{context::Context, instances::catalogue, terminal};

pub(super) fn show(name: &str, context: &Context, json: bool) -> anyhow::Result<ExitCode> {
    let catalogue = catalogue(context)?;
    let card = Card::of(catalogue.model(name)?, &context.models_dir());
    if json {
        terminal::print_json(&json!(card));
        return Ok(ExitCode::SUCCESS);
    }
    for line in lines(&card) {
        terminal::print(&line);
    }
    Ok(ExitCode::SUCCESS)
}

fn lines(card: &Card) -> Vec<String> {
    let mut lines = vec![format!("{}: {}", card.name, card.title)];
    let mut say = |label: &str, text: String| lines.push(format!("  {label:<22} {text}"));
    say("licence 许可", card.licence.clone());
    say("languages 语言", card.languages.join(", "));
    say("family 架构", card.family.clone());
    say("context 上下文", format!("{} tokens", card.context_tokens));
    if let Some(parameters) = card.parameters {
        say("parameters 参数", format!("{} M", parameters / 1_000_000));
    }
    let bytes = card.bytes.map_or_else(|| "?".to_owned(), |n| format!("{} MB", n / 1_000_000));
    say("size 大小", bytes);
    if let Some(mib) = card.memory_mib {
        let measured = card.measured.iter().any(|run| run.memory_mib.is_some());
        let how = if measured { "measured" } else { "estimated from the parameters" };
        say("memory 内存", format!("{mib} MiB ({how})"));
    }
    for source in &card.sources {
        let sum = source.sha256.as_deref().unwrap_or("no known checksum");
        say("source 来源", format!("{} (sha256 {sum})", source.place));
        if !source.note.is_empty() {
            say("", source.note.clone());
        }
    }
    match (&card.path, &card.sha256, card.verified) {
        (Some(path), Some(sum), verified) => {
            let verdict = if verified == Some(true) { "verified" } else { "not verified" };
            say("here 本机", format!("{} ({verdict}, sha256 {sum})", path.display()));
        }
        (Some(path), None, _) => {
            say("here 本机", format!("{} (not compared yet: pull it)", path.display()));
        }
        (None, ..) => say("here 本机", "no: qudao model pull".to_owned()),
    }
    if card.measured.is_empty() {
        say("speed 速度", "nobody has measured it: qudao model bench".to_owned());
    }
    for run in &card.measured {
        say("speed 速度", figures(run));
    }
    for weakness in &card.weaknesses {
        say("weakness 弱点", weakness.clone());
    }
    if !card.notes.is_empty() {
        say("notes 说明", card.notes.clone());
    }
    lines
}

fn figures(run: &Measured) -> String {
    let rate = |value: Option<f64>, what: &str| value.map(|value| format!("{value:.1} {what}"));
    let said: Vec<String> = [
        rate(run.load_s, "s to load"),
        rate(run.prompt_tokens_per_s, "tokens/s read"),
        rate(run.tokens_per_s, "tokens/s written"),
        rate(run.tokens_per_s_of_four, "tokens/s of four replies together"),
        rate(run.texts_per_s, "texts/s one by one"),
        rate(run.texts_per_s_of_32, "texts/s 32 at once"),
        rate(run.pictures_per_s, "pictures/s"),
        rate(run.speech_s_per_s, "seconds of speech/s"),
    ]
    .into_iter()
    .flatten()
    .collect();
    format!("{}; {} threads of {}, {}", said.join(", "), run.threads, run.machine, run.date)
}
