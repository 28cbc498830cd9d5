//! Answers in a form: any JSON object, what a JSON schema allows, a grammar, a regular expression.
//! Before a token is chosen, those that would leave the form are taken out of the choice, so the
//! answer has the form whatever the model would rather say.

use std::collections::VecDeque;
use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, INVALID_TOKEN, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use crate::tokens::Tokens;

/// Bytes of a schema, grammar or expression.
const FORM_BYTES_MAX: usize = 64 << 10;
/// Compiled forms that are kept: applications ask for the same few again and again.
const KEPT: usize = 16;
/// Characters of a reason that are told; the library quotes grammars at length.
const REASON_MAX: usize = 400;

/// The form of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Form {
    /// JSON that satisfies a schema.
    Schema(Value),
    /// A text of a grammar in Lark's notation.
    Lark(String),
    /// A text that an expression matches as a whole.
    Regex(String),
}

/// Why a form cannot be asked for, or not be kept to.
#[derive(Debug, thiserror::Error)]
#[error("response_format: {0}")]
pub struct FormError(String);

impl FormError {
    fn new(reason: impl std::fmt::Display) -> Self {
        let reason = reason.to_string();
        // What follows the first line is the library's state, for its developers.
        let line = reason.lines().next().unwrap_or_default();
        Self(line.chars().take(REASON_MAX).collect())
    }
}

impl Form {
    /// Reads `response_format` in OpenAI's form; `None` is plain text. Beside OpenAI's types there
    /// is `{"type":"grammar","syntax":"lark" | "regex","definition":…}`, in the words that OpenAI
    /// has for grammars of custom tools.
    ///
    /// # Errors
    /// [`FormError`] for a type nobody knows, a schema that is none, or a form that is too long.
    pub fn read(format: &Value) -> Result<Option<Self>, FormError> {
        let form = match format["type"].as_str() {
            Some("text") => return Ok(None),
            Some("json_object") => Self::Schema(json!({ "type": "object" })),
            Some("json_schema") => match &format["json_schema"]["schema"] {
                schema @ Value::Object(_) => Self::Schema(schema.clone()),
                _ => return Err(FormError::new("json_schema.schema must be an object")),
            },
            Some("grammar") => {
                let text = format["definition"].as_str();
                let text = text.ok_or_else(|| FormError::new("definition must be a text"))?;
                match format["syntax"].as_str() {
                    Some("lark") => Self::Lark(text.to_owned()),
                    Some("regex") => Self::Regex(text.to_owned()),
                    _ => return Err(FormError::new("syntax must be lark or regex")),
                }
            }
            _ => {
                let known = "type must be text, json_object, json_schema or grammar";
                return Err(FormError::new(known));
            }
        };
        let length = match &form {
            Self::Schema(schema) => schema.to_string().len(),
            Self::Lark(text) | Self::Regex(text) => text.len(),
        };
        if FORM_BYTES_MAX < length {
            return Err(FormError::new(format_args!("longer than {FORM_BYTES_MAX} bytes")));
        }
        Ok(Some(form))
    }

    fn grammar(&self) -> TopLevelGrammar {
        match self {
            Self::Schema(schema) => {
                let mut schema = schema.clone();
                if let Value::Object(members) = &mut schema {
                    // One way to write blanks: a small model that may add them never stops.
                    members.entry("x-guidance").or_insert_with(|| {
                        json!({ "whitespace_flexible": false, "item_separator": ", ",
                                "key_separator": ": " })
                    });
                }
                TopLevelGrammar::from_json_schema(schema)
            }
            Self::Lark(text) => TopLevelGrammar::from_lark(text.clone()),
            Self::Regex(text) => TopLevelGrammar::from_regex(text),
        }
    }
}

/// Compiles forms for one vocabulary.
pub struct Grammars {
    factory: ParserFactory,
    compiled: VecDeque<(Form, Matcher)>,
}

impl Grammars {
    /// Sorts the vocabulary into a tree; tenths of a second for large ones.
    ///
    /// # Errors
    /// [`FormError`] for a vocabulary that the library does not take.
    pub fn new(tokens: &Tokens) -> Result<Self, FormError> {
        let ends = tokens.ends();
        let bytes = tokens.all_bytes();
        let count = u32::try_from(bytes.len()).map_err(FormError::new)?;
        let info = TokRxInfo::new(count, ends.first().copied().unwrap_or(INVALID_TOKEN));
        let tree = TokTrie::from(&info, &bytes);
        let tree = if ends.is_empty() { tree } else { tree.with_eos_tokens(ends) };
        let vocabulary: TokEnv = Arc::new(ApproximateTokEnv::new(tree));
        let mut factory = ParserFactory::new_simple(&vocabulary).map_err(FormError::new)?;
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        Ok(Self { factory, compiled: VecDeque::new() })
    }

    /// A constraint at its beginning.
    ///
    /// # Errors
    /// [`FormError`] for what is no schema, grammar or expression, or too intricate.
    pub fn begin(&mut self, form: &Form) -> Result<Constraint, FormError> {
        if let Some(at) = self.compiled.iter().position(|(known, _)| known == form)
            && let Some((known, matcher)) = self.compiled.remove(at)
        {
            let own = matcher.deep_clone();
            self.compiled.push_back((known, matcher));
            return Ok(Constraint { matcher: own });
        }
        let parser = self.factory.create_parser(form.grammar()).map_err(FormError::new)?;
        let mut matcher = Matcher::new(Ok(parser));
        // What is wrong with a form may show only when its first token is looked for.
        matcher.compute_mask_or_eos().map_err(FormError::new)?;
        if KEPT <= self.compiled.len() {
            self.compiled.pop_front();
        }
        self.compiled.push_back((form.clone(), matcher.deep_clone()));
        Ok(Constraint { matcher })
    }
}

/// The form of one reply, as far as it has come.
pub struct Constraint {
    matcher: Matcher,
}

impl Constraint {
    /// Makes every token impossible that would leave the form.
    ///
    /// # Errors
    /// [`FormError`] when the form turns out to be too intricate.
    pub fn restrict(&mut self, logits: &mut [f32]) -> Result<(), FormError> {
        let allowed = self.matcher.compute_mask_or_eos().map_err(FormError::new)?;
        for (words, logits) in allowed.as_slice().iter().zip(logits.chunks_mut(32)) {
            for (bit, logit) in logits.iter_mut().enumerate() {
                if words >> bit & 1 == 0 {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
        let known = allowed.as_slice().len() * 32;
        if let Some(unknown) = logits.get_mut(known..) {
            unknown.fill(f32::NEG_INFINITY);
        }
        Ok(())
    }

    /// Takes the token that was chosen. True when nothing can follow.
    ///
    /// # Errors
    /// [`FormError`] when the token does not belong to the form.
    pub fn accept(&mut self, token: u32) -> Result<bool, FormError> {
        self.matcher.consume_token(token).map_err(FormError::new)?;
        Ok(self.matcher.is_stopped())
    }
}

#[cfg(test)]
mod tests;
