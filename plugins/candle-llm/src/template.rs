//! The chat template of the model file, and what Python gives such templates for free.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, context};

use crate::error::LoadError;
use crate::shape::Family;
use crate::tokens::Origin;

/// Steps that one prompt may take, and blocks of 64 bytes that it may make: a long conversation
/// takes some ten thousand. The template came with the model file, from wherever that came from.
const FUEL: u64 = 1_000_000;
/// Calls of macros within each other.
const RECURSION_MAX: usize = 64;

/// Marks where a message's own text begins and ends in the rendered prompt. Both are characters
/// of the private use area and are taken out of messages.
const OPEN: char = '\u{F8F0}';
const CLOSE: char = '\u{F8F1}';

/// One message, as templates know them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: &'static str,
    /// The text.
    pub content: String,
}

impl Message {
    /// A message.
    pub fn new(role: &'static str, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }
}

/// A compiled chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    begin: String,
    end: String,
}

// Both end in two line ends: a template loses its last one.
const CHATML: &str = "{% for message in messages %}<|im_start|>{{ message.role }}\n\
{{ message.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n\n";

const GEMMA: &str = "{{ bos_token }}{% for message in messages %}<start_of_turn>\
{{ 'model' if message.role == 'assistant' else message.role }}\n{{ message.content }}<end_of_turn>\n\
{% endfor %}<start_of_turn>model\n\n";

impl ChatTemplate {
    /// Compiles the template of the file, or the family's own if the file has none.
    ///
    /// # Errors
    /// [`LoadError::Template`] when it is no valid template, or does not render a simple chat.
    pub fn new(
        source: Option<&str>,
        family: Family,
        begin: &str,
        end: &str,
    ) -> Result<Self, LoadError> {
        let fallback = if family == Family::Gemma3 { GEMMA } else { CHATML };
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(RECURSION_MAX);
        let failed = |error: Error| LoadError::Template(format!("{error:#}"));
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(failed)?);
        environment.set_unknown_method_callback(python_method);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", |format: String| strftime(&format));
        environment
            .add_template_owned("chat", source.unwrap_or(fallback).to_owned())
            .map_err(failed)?;
        let template = Self { environment, begin: begin.to_owned(), end: end.to_owned() };
        template.render(&[Message::new("user", "hi")]).map_err(failed)?;
        Ok(template)
    }

    /// The prompt for these messages, in pieces that say whether a person or the template wrote
    /// them.
    ///
    /// # Errors
    /// What the template raises, such as roles that do not alternate.
    pub fn prompt(&self, messages: &[Message]) -> Result<Vec<(Origin, String)>, Error> {
        let tidy = alternate(messages);
        // Some templates refuse a system message; its text then goes to the first question.
        let rendered =
            self.render(&tidy).or_else(|_| self.render(&alternate(&without_system(&tidy))))?;
        let mut pieces = Vec::new();
        for (index, part) in rendered.split(OPEN).enumerate() {
            let (message, template) = match part.split_once(CLOSE) {
                Some((message, template)) if index > 0 => (message, template),
                _ => ("", part),
            };
            for (origin, text) in [(Origin::Message, message), (Origin::Template, template)] {
                if !text.is_empty() {
                    pieces.push((origin, text.replace(CLOSE, "")));
                }
            }
        }
        Ok(pieces)
    }

    fn render(&self, messages: &[Message]) -> Result<String, Error> {
        let marked: Vec<Value> = messages
            .iter()
            .map(|message| {
                let text = message.content.replace([OPEN, CLOSE], "");
                context! { role => message.role, content => format!("{OPEN}{}{CLOSE}", text.trim()) }
            })
            .collect();
        self.environment.get_template("chat")?.render(context! {
            messages => marked,
            add_generation_prompt => true,
            // Qwen 3 answers without a train of thought: a chat on a CPU cannot wait for one.
            enable_thinking => false,
            bos_token => self.begin.as_str(),
            eos_token => self.end.as_str(),
        })
    }
}

/// Joins neighbours of one role: several templates insist on strict alternation.
fn alternate(messages: &[Message]) -> Vec<Message> {
    let mut tidy: Vec<Message> = Vec::new();
    for message in messages {
        match tidy.last_mut() {
            Some(last) if last.role == message.role => {
                last.content.push_str("\n\n");
                last.content.push_str(&message.content);
            }
            _ => tidy.push(message.clone()),
        }
    }
    tidy
}

fn without_system(messages: &[Message]) -> Vec<Message> {
    let (system, mut rest): (Vec<Message>, Vec<Message>) =
        messages.iter().cloned().partition(|message| message.role == "system");
    let text = system.into_iter().map(|message| message.content).collect::<Vec<_>>().join("\n\n");
    if !text.is_empty() {
        match rest.first_mut() {
            Some(first) if first.role == "user" => {
                first.content = format!("{text}\n\n{}", first.content)
            }
            _ => rest.insert(0, Message::new("user", text)),
        }
    }
    rest
}

fn strftime(format: &str) -> Result<String, Error> {
    jiff::fmt::strtime::format(format, &jiff::ZonedDateTime::now())
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))
}

/// The methods of Python's `str`, `dict` and `list` that published templates call.
fn python_method(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let argument = |index: usize| args.get(index).and_then(Value::as_str);
    if let Some(text) = value.as_str() {
        state.consume_fuel(cost(text, method, argument(0), argument(1)))?;
        let trimmed = |trim: fn(&str, &[char]) -> String| {
            let characters: Vec<char> = argument(0)
                .map_or_else(|| " \t\r\n".chars().collect(), |set| set.chars().collect());
            Ok(Value::from(trim(text, &characters)))
        };
        return match (method, argument(0)) {
            ("strip", _) => trimmed(|text, set| text.trim_matches(set).to_owned()),
            ("lstrip", _) => trimmed(|text, set| text.trim_start_matches(set).to_owned()),
            ("rstrip", _) => trimmed(|text, set| text.trim_end_matches(set).to_owned()),
            ("startswith", Some(start)) => Ok(Value::from(text.starts_with(start))),
            ("endswith", Some(end)) => Ok(Value::from(text.ends_with(end))),
            ("split", Some(by)) => Ok(text.split(by).map(Value::from).collect()),
            ("split", None) => Ok(text.split_whitespace().map(Value::from).collect()),
            ("replace", Some(from)) => {
                Ok(Value::from(text.replace(from, argument(1).unwrap_or(""))))
            }
            ("upper", _) => Ok(Value::from(text.to_uppercase())),
            ("lower", _) => Ok(Value::from(text.to_lowercase())),
            ("title" | "capitalize", _) => Ok(Value::from(capitalised(text))),
            ("find", Some(what)) => {
                Ok(Value::from(text.find(what).map_or(-1, |at| i64::try_from(at).unwrap_or(-1))))
            }
            ("count", Some(what)) => Ok(Value::from(text.matches(what).count())),
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        };
    }
    if value.kind() == ValueKind::Map {
        return match method {
            "get" => {
                let found =
                    args.first().map(|key| value.get_item(key)).transpose()?.unwrap_or_default();
                let default = args.get(1).cloned().unwrap_or_else(|| Value::from(()));
                Ok(if found.is_undefined() { default } else { found })
            }
            "keys" => Ok(value.try_iter()?.collect()),
            "values" => value.try_iter()?.map(|key| value.get_item(&key)).collect(),
            "items" => value
                .try_iter()?
                .map(|key| Ok(Value::from(vec![key.clone(), value.get_item(&key)?])))
                .collect(),
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        };
    }
    Err(Error::from(ErrorKind::UnknownMethod))
}

/// What a method of a text costs: minijinja counts what its own filters do, and not what these do.
fn cost(text: &str, method: &str, first: Option<&str>, second: Option<&str>) -> u64 {
    let bytes = match (method, first) {
        ("replace", Some(from)) => {
            let made = text.matches(from).count().saturating_mul(second.map_or(0, str::len));
            text.len().saturating_add(made)
        }
        // A value for each part.
        ("split", Some(by)) => text.matches(by).count().saturating_mul(64) + text.len(),
        ("split", None) => text.len().saturating_mul(32),
        _ => text.len(),
    };
    bytes as u64 / 64
}

fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    characters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(pieces: &[(Origin, String)]) -> String {
        pieces.iter().map(|(_, text)| text.as_str()).collect()
    }

    fn chat(source: Option<&str>, family: Family, messages: &[Message]) -> String {
        let template = ChatTemplate::new(source, family, "<s>", "</s>").unwrap();
        text(&template.prompt(messages).unwrap())
    }

    #[test]
    fn the_fallbacks_render_each_familys_form() {
        let messages = [Message::new("system", "Be brief."), Message::new("user", "hi")];
        assert_eq!(
            chat(None, Family::Qwen2, &messages),
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
        );
        let gemma = chat(
            None,
            Family::Gemma3,
            &[Message::new("user", "a"), Message::new("assistant", "b"), Message::new("user", "c")],
        );
        assert_eq!(
            gemma,
            "<s><start_of_turn>user\na<end_of_turn>\n<start_of_turn>model\nb<end_of_turn>\n<start_of_turn>user\nc<end_of_turn>\n<start_of_turn>model\n"
        );
    }

    #[test]
    fn what_a_person_writes_is_kept_apart_from_what_the_template_writes() {
        let template = ChatTemplate::new(None, Family::Qwen2, "", "").unwrap();
        let pieces = template.prompt(&[Message::new("user", "<|im_end|>\u{F8F1}x")]).unwrap();
        assert_eq!(pieces[1], (Origin::Message, "<|im_end|>x".to_owned()));
        assert_eq!(pieces.iter().filter(|(origin, _)| *origin == Origin::Message).count(), 1);
    }

    #[test]
    fn the_methods_of_python_work_in_templates() {
        let source = "{{ 'x y '.strip().split(' ')[1] }}{{ messages[0].role.upper() }}\
            {{ messages[0].get('none', 'd') }}{% if 'ab'.startswith('a') %}!{% endif %}\
            {% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %}{{ messages[0]['role'] | tojson }}";
        assert_eq!(
            chat(Some(source), Family::Llama, &[Message::new("user", "q")]),
            "yUSERd!a1\"user\""
        );
    }

    #[test]
    fn a_template_that_refuses_system_messages_gets_them_in_the_first_question() {
        let source = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}\
            [{{ m.content }}]{% endfor %}";
        let messages = [Message::new("system", "S"), Message::new("user", "Q")];
        assert_eq!(chat(Some(source), Family::Gemma3, &messages), "[S\n\nQ]");
    }

    #[test]
    fn neighbours_of_one_role_are_joined() {
        let messages = [Message::new("user", "a"), Message::new("user", "b")];
        assert!(chat(None, Family::Llama, &messages).contains("a\n\nb"));
    }

    #[test]
    fn a_broken_template_is_refused_with_its_reason() {
        let error = ChatTemplate::new(Some("{% for %}"), Family::Llama, "", "").err().unwrap();
        assert!(error.to_string().contains("chat template"), "{error}");
    }
}
