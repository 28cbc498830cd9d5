//! The platforms' XML as a value: an element with elements is an object, one with words a text, and
//! one that is repeated a list. Nothing is expanded but the five entities that XML itself has.

use std::borrow::Cow;

use quick_xml::{Reader, events::Event};
use serde_json::{Map, Value};

/// Bytes of a document.
const BYTES_MAX: usize = 256 << 10;
/// Elements within each other.
const DEPTH_MAX: usize = 8;
/// Elements in all.
const ELEMENTS_MAX: usize = 2000;

/// Reads a document: what is within its root. `None` if it is not whole, too large or too deep, or
/// declares anything of its own.
pub(super) fn read(bytes: &[u8]) -> Option<Value> {
    if bytes.len() > BYTES_MAX {
        return None;
    }
    let text = std::str::from_utf8(bytes).ok()?;
    let mut reader = Reader::from_str(text);
    let mut open: Vec<Element> = Vec::new();
    let mut root = None;
    let mut count = 0;
    loop {
        match reader.read_event().ok()? {
            Event::Start(start) => {
                count += 1;
                if root.is_some() || open.len() >= DEPTH_MAX || count > ELEMENTS_MAX {
                    return None;
                }
                open.push(Element::named(start.local_name().as_ref()));
            }
            Event::Empty(start) => {
                count += 1;
                if count > ELEMENTS_MAX {
                    return None;
                }
                let element = Element::named(start.local_name().as_ref());
                close(element, &mut open, &mut root);
            }
            Event::End(_) => close(open.pop()?, &mut open, &mut root),
            Event::Text(words) => say(&mut open, &words.xml10_content()),
            Event::CData(words) => say(&mut open, &words.xml10_content()),
            Event::GeneralRef(name) => say(&mut open, &character(&name.into_inner())?),
            Event::DocType(_) | Event::PI(_) => return None,
            Event::Comment(_) | Event::Decl(_) => {}
            Event::Eof => break,
        }
    }
    root.filter(|_| open.is_empty())
}

/// A text that may stand within `<![CDATA[…]]>`.
pub(super) fn cdata(text: &str) -> String {
    // Characters that XML does not have at all.
    let plain: String =
        text.chars().filter(|letter| matches!(letter, '\t' | '\n' | '\r' | ' '..)).collect();
    format!("<![CDATA[{}]]>", plain.replace("]]>", "]]]]><![CDATA[>"))
}

struct Element {
    name: String,
    text: String,
    children: Map<String, Value>,
}

impl Element {
    fn named(name: impl AsRef<str>) -> Self {
        Self { name: name.as_ref().to_owned(), text: String::new(), children: Map::new() }
    }

    fn into_value(self) -> (String, Value) {
        let value = if self.children.is_empty() {
            Value::String(self.text)
        } else {
            Value::Object(self.children)
        };
        (self.name, value)
    }
}

fn say(open: &mut [Element], words: &str) {
    if let Some(element) = open.last_mut() {
        element.text.push_str(words);
    }
}

fn close(element: Element, open: &mut [Element], root: &mut Option<Value>) {
    let (name, value) = element.into_value();
    let Some(parent) = open.last_mut() else {
        *root = Some(value);
        return;
    };
    match parent.children.get_mut(&name) {
        None => {
            parent.children.insert(name, value);
        }
        Some(Value::Array(all)) => all.push(value),
        Some(first) => *first = Value::Array(vec![first.take(), value]),
    }
}

/// What a reference stands for.
fn character(name: &str) -> Option<Cow<'static, str>> {
    let known = match name {
        "lt" => "<",
        "gt" => ">",
        "amp" => "&",
        "quot" => "\"",
        "apos" => "'",
        _ => {
            let number = name.strip_prefix('#')?;
            let code = match number.strip_prefix('x') {
                Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                None => number.parse().ok()?,
            };
            let letter = char::from_u32(code).filter(|letter| *letter != '\0')?;
            return Some(letter.to_string().into());
        }
    };
    Some(known.into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_document_becomes_a_value() {
        let text = "<?xml version=\"1.0\"?><xml><A><![CDATA[a <b> & 😀]]></A><B>1 &lt; 2 &#x41;</B><C><D>x</D><D>y</D><D/></C></xml>";
        let wanted = json!({"A": "a <b> & 😀", "B": "1 < 2 A", "C": {"D": ["x", "y", ""]}});
        assert_eq!(read(text.as_bytes()), Some(wanted));
    }

    #[test]
    fn what_is_not_whole_or_wants_more_is_refused() {
        let deep = format!("{}{}", "<a>".repeat(9), "</a>".repeat(9));
        let many = format!("<a>{}</a>", "<b/>".repeat(2001));
        let long = format!("<a>{}</a>", "x".repeat(BYTES_MAX));
        let bomb = "<!DOCTYPE x [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]><x>&b;</x>";
        for text in [
            &deep,
            &many,
            &long,
            bomb,
            "<x>&b;</x>",
            "<x>&#0;</x>",
            "<a><b></a></b>",
            "<a>",
            "</a>",
            "",
            "x",
            "<a/><b/>x<",
        ] {
            assert_eq!(read(text.as_bytes()), None, "{}", &text[..text.len().min(80)]);
        }
        assert_eq!(read(b"<a>\xff</a>"), None);
    }

    #[test]
    fn words_cannot_leave_their_section() {
        let hostile = "a]]><evil>1</evil><![CDATA[\u{1}b";
        let text = format!("<x><y>{}</y></x>", cdata(hostile));
        assert_eq!(read(text.as_bytes()), Some(json!({"y": "a]]><evil>1</evil><![CDATA[b"})));
    }
}
