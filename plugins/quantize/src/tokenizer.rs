//! The tokenizer: what tokenizer.json says, as GGUF says it.

use std::collections::HashMap;

use serde_json::Value;

use crate::error::QuantizeError;
use crate::gguf::Meta;
use crate::source::Source;

/// The format's kinds of tokens.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// Pieces that no merge makes are never made.
const NEVER: f32 = -1e9;

/// The two expressions by which the families cut text, apart in how they take digits.
const CUT_LLAMA: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const CUT_QWEN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

fn unknown<T>(reason: impl Into<String>) -> Result<T, QuantizeError> {
    Err(QuantizeError::Unknown(reason.into()))
}

struct Vocabulary {
    names: Vec<String>,
    kinds: Vec<i32>,
    ids: HashMap<String, usize>,
}

/// The metadata of the tokenizer for a network with so many rows in its vocabulary.
pub(crate) fn metadata(source: &Source, rows: usize) -> Result<Vec<(String, Meta)>, QuantizeError> {
    let Some(file) = source.json("tokenizer.json")? else {
        return unknown("it has no tokenizer.json");
    };
    if file["model"]["type"] != "BPE" {
        return unknown(format!("its tokenizer is {}, and not BPE", file["model"]["type"]));
    }
    let merges = merges(&file["model"]["merges"]);
    let vocabulary = Vocabulary::read(&file, rows)?;
    let mut metadata = if mentions(&file["pre_tokenizer"], "ByteLevel") {
        byte_level(&file, &merges)?
    } else if file["model"]["byte_fallback"] == true {
        pieces(&file, &merges, &vocabulary)
    } else {
        return unknown("its tokenizer knows neither bytes nor pieces");
    };
    metadata.extend(marks(source, &file, &vocabulary)?);
    let Vocabulary { names, kinds, .. } = vocabulary;
    metadata.push(("tokens".to_owned(), Meta::Texts(names)));
    metadata.push(("token_type".to_owned(), Meta::Integers(kinds)));
    let mut metadata: Vec<(String, Meta)> =
        metadata.into_iter().map(|(key, value)| (format!("tokenizer.ggml.{key}"), value)).collect();
    if let Some(template) = template(source)? {
        metadata.push(("tokenizer.chat_template".to_owned(), Meta::Text(template)));
    }
    Ok(metadata)
}

impl Vocabulary {
    fn read(file: &Value, rows: usize) -> Result<Self, QuantizeError> {
        let mut names: Vec<Option<String>> = vec![None; rows];
        let mut kinds = vec![UNUSED; rows];
        let pieces = file["model"]["byte_fallback"] == true;
        let unk = file["model"]["unk_token"].as_str();
        let Some(listed) = file["model"]["vocab"].as_object() else {
            return unknown("its tokenizer has no vocabulary");
        };
        let place = |id: &Value| id.as_u64().and_then(|id| usize::try_from(id).ok());
        for (name, id) in listed {
            let Some(at) = place(id).filter(|at| *at < rows) else {
                return unknown(format!("its token {name:?} has no row"));
            };
            names[at] = Some(name.clone());
            kinds[at] = match name.as_str() {
                name if pieces && unk == Some(name) => UNKNOWN,
                name if pieces && is_byte(name) => BYTE,
                _ => NORMAL,
            };
        }
        for token in file["added_tokens"].as_array().into_iter().flatten() {
            // One for pictures may stand beyond the rows of a network that only reads.
            let Some(at) = place(&token["id"]).filter(|at| *at < rows) else { continue };
            let name = token["content"].as_str().unwrap_or_default();
            names[at] = Some(name.to_owned());
            if kinds[at] != UNKNOWN {
                kinds[at] = if token["special"] == true { CONTROL } else { USER_DEFINED };
            }
        }
        let name =
            |(at, name): (usize, Option<String>)| name.unwrap_or_else(|| format!("[PAD{at}]"));
        let names: Vec<String> = names.into_iter().enumerate().map(name).collect();
        let ids = names.iter().enumerate().map(|(at, name)| (name.clone(), at)).collect();
        Ok(Self { names, kinds, ids })
    }
}

fn is_byte(name: &str) -> bool {
    let digits = name.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|hex| hex.len() == 2 && u8::from_str_radix(hex, 16).is_ok())
}

/// Older files write a pair as one text, newer ones as two.
fn merges(list: &Value) -> Vec<(String, String)> {
    let pair = |merge: &Value| match merge {
        Value::String(text) => {
            text.split_once(' ').map(|(left, right)| (left.to_owned(), right.to_owned()))
        }
        Value::Array(two) => {
            Some((two.first()?.as_str()?.to_owned(), two.get(1)?.as_str()?.to_owned()))
        }
        _ => None,
    };
    list.as_array().into_iter().flatten().filter_map(pair).collect()
}

/// Whether a step of a pipeline is of this type.
fn mentions(step: &Value, kind: &str) -> bool {
    !find(step, &|step| step["type"] == kind).is_null()
}

/// The first step of a pipeline that is as wanted.
fn find<'a>(step: &'a Value, wanted: &dyn Fn(&Value) -> bool) -> &'a Value {
    if wanted(step) {
        return step;
    }
    let parts = ["pretokenizers", "normalizers", "processors"];
    let within = parts.iter().filter_map(|part| step[part].as_array()).flatten();
    within.map(|step| find(step, wanted)).find(|found| !found.is_null()).unwrap_or(&Value::Null)
}

type Entries = Vec<(String, Meta)>;

fn byte_level(file: &Value, merges: &[(String, String)]) -> Result<Entries, QuantizeError> {
    let steps = &file["pre_tokenizer"];
    let cut = find(steps, &|step| step["type"] == "Split")["pattern"]["Regex"].as_str();
    let single_digits = find(steps, &|step| step["type"] == "Digits")["individual_digits"] == true;
    let pre = match cut {
        Some(CUT_LLAMA) => "llama-bpe",
        Some(CUT_QWEN) => "qwen2",
        Some(other) => return unknown(format!("its tokenizer cuts text by {other:?}")),
        None if single_digits => "smollm",
        None => "gpt-2",
    };
    let text = |(left, right): &(String, String)| format!("{left} {right}");
    Ok(vec![
        ("model".to_owned(), Meta::Text("gpt2".to_owned())),
        ("pre".to_owned(), Meta::Text(pre.to_owned())),
        ("merges".to_owned(), Meta::Texts(merges.iter().map(text).collect())),
    ])
}

/// Pieces have scores there and merges here: the earlier a piece can be made, the higher it scores.
fn pieces(file: &Value, merges: &[(String, String)], vocabulary: &Vocabulary) -> Entries {
    let mut scores = vec![NEVER; vocabulary.names.len()];
    #[expect(clippy::cast_precision_loss, reason = "half a million merges are exact in f32")]
    for (rank, (left, right)) in merges.iter().enumerate().rev() {
        if let Some(at) = vocabulary.ids.get(&format!("{left}{right}")) {
            scores[*at] = -(rank as f32);
        }
    }
    for (score, kind) in scores.iter_mut().zip(&vocabulary.kinds) {
        if *kind != NORMAL {
            *score = 0.0;
        }
    }
    let steps = [&file["normalizer"], &file["pre_tokenizer"]];
    let prepends = steps.iter().any(|steps| {
        let wide = |step: &Value| step["type"] == "Metaspace" && step["prepend_scheme"] != "never";
        mentions(steps, "Prepend") || !find(steps, &wide).is_null()
    });
    vec![
        ("model".to_owned(), Meta::Text("llama".to_owned())),
        ("pre".to_owned(), Meta::Text("default".to_owned())),
        ("scores".to_owned(), Meta::Fractions(scores)),
        ("add_space_prefix".to_owned(), Meta::Flag(prepends)),
    ]
}

/// Which tokens begin and end a text.
fn marks(source: &Source, file: &Value, vocabulary: &Vocabulary) -> Result<Entries, QuantizeError> {
    let settings = source.json("tokenizer_config.json")?.unwrap_or_default();
    let generation = source.json("generation_config.json")?.unwrap_or_default();
    let config = &source.config;
    let rows = vocabulary.names.len();
    let by_name = |key: &str| {
        let token = &settings[key];
        let name = token.as_str().or(token["content"].as_str())?;
        u32::try_from(*vocabulary.ids.get(name)?).ok()
    };
    let listed = |value: &Value| -> Vec<u32> {
        let one = |value: &Value| u32::try_from(value.as_u64()?).ok();
        let all = value.as_array().map_or_else(
            || one(value).into_iter().collect(),
            |list| list.iter().filter_map(one).collect::<Vec<_>>(),
        );
        all.into_iter().filter(|id| usize::try_from(*id).is_ok_and(|id| id < rows)).collect()
    };
    let key = |key: &str| {
        let from = [&config[key], &config["text_config"][key], &generation[key]];
        from.into_iter().flat_map(listed).collect::<Vec<_>>()
    };
    let begin = by_name("bos_token").or_else(|| key("bos_token_id").first().copied());
    let mut ends = key("eos_token_id");
    if let Some(end) = by_name("eos_token") {
        ends.insert(0, end);
    }
    let mut entries = Vec::new();
    let mut say = |name: &str, id: Option<u32>| {
        entries.extend(id.map(|id| (format!("{name}_token_id"), Meta::Number(id))));
    };
    say("bos", begin);
    say("eos", ends.first().copied());
    say("eot", ends.iter().copied().find(|id| Some(id) != ends.first()));
    say("padding", by_name("pad_token"));
    let begins = settings["add_bos_token"].as_bool().unwrap_or_else(|| {
        let single = find(&file["post_processor"], &|step| step["type"] == "TemplateProcessing");
        !single["single"][0]["SpecialToken"].is_null()
    });
    entries.push(("add_bos_token".to_owned(), Meta::Flag(begins && begin.is_some())));
    Ok(entries)
}

/// How a conversation is written down for the model.
fn template(source: &Source) -> Result<Option<String>, QuantizeError> {
    if let Some(text) = source.text("chat_template.jinja") {
        return Ok(Some(text));
    }
    for name in ["tokenizer_config.json", "chat_template.json"] {
        let file = source.json(name)?.unwrap_or_default();
        match &file["chat_template"] {
            Value::String(text) => return Ok(Some(text.clone())),
            Value::Array(several) => {
                let default = several.iter().find(|one| one["name"] == "default");
                if let Some(text) = default.and_then(|one| one["template"].as_str()) {
                    return Ok(Some(text.to_owned()));
                }
            }
            _ => {}
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_piece_that_is_made_earlier_scores_higher_whichever_way_it_is_made() {
        let file = json!({ "model": { "type": "BPE", "byte_fallback": true, "unk_token": "<unk>",
            "vocab": { "<unk>": 0, "<0x41>": 1, "a": 2, "b": 3, "ab": 4, "c": 5, "abc": 6 } },
            "added_tokens": [{ "id": 7, "content": "<s>", "special": true },
                             { "id": 9, "content": "<beyond>", "special": true }] });
        let vocabulary = Vocabulary::read(&file, 9).unwrap();
        let kinds = [UNKNOWN, BYTE, NORMAL, NORMAL, NORMAL, NORMAL, NORMAL, CONTROL, UNUSED];
        assert_eq!(vocabulary.kinds, kinds);
        assert_eq!(vocabulary.names[8], "[PAD8]");
        let merges = merges(&json!(["a b", ["ab", "c"], "a bc"]));
        let entries = pieces(&file, &merges, &vocabulary);
        let Some((_, Meta::Fractions(scores))) = entries.iter().find(|(key, _)| key == "scores")
        else {
            panic!("{entries:?}")
        };
        assert_eq!(scores[2..7], [NEVER, NEVER, 0.0, NEVER, -1.0]);
        assert!(entries.contains(&("add_space_prefix".to_owned(), Meta::Flag(false))));
    }

    #[test]
    fn the_way_of_cutting_is_known_by_its_whole_expression_or_not_at_all() {
        let cut = |regex: &str| {
            let file = json!({ "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
                { "type": "Split", "pattern": { "Regex": regex } }, { "type": "ByteLevel" }] } });
            byte_level(&file, &[]).map(|entries| entries[1].1.clone()).ok()
        };
        assert_eq!(cut(CUT_QWEN), Some(Meta::Text("qwen2".to_owned())));
        assert_eq!(cut(CUT_LLAMA), Some(Meta::Text("llama-bpe".to_owned())));
        assert_eq!(cut(&CUT_LLAMA[1..]), None);
        let digits = json!({ "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
            { "type": "Digits", "individual_digits": true }, { "type": "ByteLevel" }] } });
        assert_eq!(byte_level(&digits, &[]).unwrap()[1].1, Meta::Text("smollm".to_owned()));
    }
}
