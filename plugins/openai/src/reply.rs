//! What a provider answers, read only as far as the platform needs it.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// A chunk of a stream or a whole completion: they differ in `delta` and `message` alone.
#[derive(Debug, Deserialize)]
pub struct Reply<'a> {
    /// Empty in the chunk that carries the usage.
    #[serde(default, borrow)]
    pub choices: Vec<Choice<'a>>,
    /// In the last chunk, or in every one (then it grows).
    #[serde(default)]
    pub usage: Option<Counted>,
    /// Some servers report a failure in the middle of a stream that began with a 200.
    #[serde(default, borrow)]
    pub error: Option<&'a RawValue>,
}

/// One answer. The platform asks for one only.
#[derive(Debug, Deserialize)]
pub struct Choice<'a> {
    /// A piece.
    #[serde(default, borrow)]
    pub delta: Option<Delta<'a>>,
    /// The whole.
    #[serde(default, borrow)]
    pub message: Option<Delta<'a>>,
    /// Why the model stopped; in the last piece.
    #[serde(default, borrow)]
    pub finish_reason: Option<Cow<'a, str>>,
    /// As asked for with `logprobs`.
    #[serde(default, borrow)]
    pub logprobs: Option<&'a RawValue>,
}

/// Tokens, counted by the provider.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Counted {
    /// Of the request.
    #[serde(default)]
    pub prompt_tokens: u32,
    /// Of the answer, with the reasoning.
    #[serde(default)]
    pub completion_tokens: u32,
}

/// A piece of an answer.
#[derive(Debug, Default)]
pub struct Delta<'a> {
    /// Text.
    pub content: Option<Cow<'a, str>>,
    /// The model's thinking, under either of the two names in use.
    pub reasoning: Option<Cow<'a, str>>,
    /// Every other field that says something, as it came: `tool_calls`, `refusal`, `audio`, ….
    pub rest: Vec<(Cow<'a, str>, &'a RawValue)>,
}

/// A text that borrows when it holds no escape. `Option<Cow<str>>` alone would always copy.
#[derive(Debug, Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// By hand, because `#[serde(flatten)]` would copy every piece into a tree first.
impl<'de: 'a, 'a> Deserialize<'de> for Delta<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Delta<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a delta")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Delta<'de>, A::Error> {
                let mut delta = Delta::default();
                while let Some(name) = map.next_key::<Text<'de>>()? {
                    match &*name.0 {
                        "content" => delta.content = text(&mut map)?,
                        "reasoning_content" | "reasoning" => delta.reasoning = text(&mut map)?,
                        "role" => drop(map.next_value::<&RawValue>()?),
                        _ => {
                            let value = map.next_value::<&RawValue>()?;
                            if !matches!(value.get(), "null" | "[]" | "\"\"") {
                                delta.rest.push((name.0, value));
                            }
                        }
                    }
                }
                Ok(delta)
            }
        }
        from.deserialize_map(Fields)
    }
}

fn text<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Option<Cow<'de, str>>, A::Error> {
    Ok(map.next_value::<Option<Text<'de>>>()?.map(|text| text.0))
}

impl Delta<'_> {
    /// The other fields as one JSON object; `None` when there are none.
    #[must_use]
    pub fn rest_json(&self) -> Option<String> {
        if self.rest.is_empty() {
            return None;
        }
        let mut json = String::from("{");
        for (name, value) in &self.rest {
            if json.len() > 1 {
                json.push(',');
            }
            json.push_str(&serde_json::Value::from(&**name).to_string());
            json.push(':');
            json.push_str(value.get());
        }
        json.push('}');
        Some(json)
    }
}

#[cfg(test)]
mod tests;
