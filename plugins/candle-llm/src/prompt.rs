//! Fitting a conversation into the context: old turns go first, whole; the system prompt and the
//! last question stay.

use crate::template::{ChatTemplate, Message};
use crate::tokens::{Origin, Tokens};

/// Words that stand where the middle of a too long question was.
const CUT: &str = " … ";

/// Renders and tokenises the conversation so that it has at most `limit` tokens.
///
/// # Errors
/// What the template raises when even the last question alone cannot be rendered.
pub fn fit(
    template: &ChatTemplate,
    tokens: &Tokens,
    messages: &[Message],
    limit: usize,
) -> Result<Vec<u32>, minijinja::Error> {
    let mut kept = messages.to_vec();
    loop {
        let prompt = tokenise(template, tokens, &kept)?;
        if prompt.len() <= limit {
            return Ok(prompt);
        }
        if !drop_oldest_turn(&mut kept) {
            return shorten_last(template, tokens, kept, limit);
        }
    }
}

fn tokenise(
    template: &ChatTemplate,
    tokens: &Tokens,
    messages: &[Message],
) -> Result<Vec<u32>, minijinja::Error> {
    let mut all = Vec::new();
    for (origin, text) in template.prompt(messages)? {
        all.extend(tokens.encode(&text, origin));
    }
    if let Some(begin) = tokens.prefix().filter(|begin| all.first() != Some(begin)) {
        all.insert(0, begin);
    }
    Ok(all)
}

/// Takes out the oldest question with everything up to the next one. False when only the system
/// prompt and the last question are left.
fn drop_oldest_turn(messages: &mut Vec<Message>) -> bool {
    let questions: Vec<usize> = messages
        .iter()
        .enumerate()
        .filter(|(_, message)| message.role == "user")
        .map(|(index, _)| index)
        .collect();
    let first = messages.iter().position(|message| message.role != "system");
    match (first, questions.as_slice()) {
        // Something stands before the first question: that goes first.
        (Some(first), [question, ..]) if first < *question => {
            messages.drain(first..*question);
            true
        }
        (Some(first), [_, next, ..]) => {
            messages.drain(first..*next);
            true
        }
        _ => false,
    }
}

/// Shortens the last question in its middle; if the system prompt alone fills the context, that
/// too, at its end.
fn shorten_last(
    template: &ChatTemplate,
    tokens: &Tokens,
    mut messages: Vec<Message>,
    limit: usize,
) -> Result<Vec<u32>, minijinja::Error> {
    for role in ["user", "system"] {
        let Some(index) = messages.iter().rposition(|message| message.role == role) else {
            continue;
        };
        let whole: Vec<char> = messages[index].content.chars().collect();
        // A character is at most four tokens, so halving finds a length that fits in few steps.
        let (mut low, mut high) = (0, whole.len());
        let mut best = None;
        while low <= high {
            let middle = low + (high - low) / 2;
            messages[index].content = shortened(&whole, middle, role == "user");
            let prompt = tokenise(template, tokens, &messages)?;
            if prompt.len() <= limit {
                best = Some(prompt);
                low = middle + 1;
            } else if middle == 0 {
                break;
            } else {
                high = middle - 1;
            }
        }
        if let Some(best) = best {
            return Ok(best);
        }
        messages[index].content = shortened(&whole, whole.len().min(64), role == "user");
    }
    // Nothing fits but a fragment: keep the end, where the question is.
    let mut prompt = tokenise(template, tokens, &messages)?;
    prompt.drain(..prompt.len().saturating_sub(limit));
    Ok(prompt)
}

fn shortened(whole: &[char], keep: usize, middle: bool) -> String {
    if keep >= whole.len() {
        return whole.iter().collect();
    }
    if !middle {
        return whole[..keep].iter().collect();
    }
    let (head, tail) = (keep.div_ceil(2), keep / 2);
    let (head, tail) = (&whole[..head], &whole[whole.len() - tail..]);
    head.iter().copied().chain(CUT.chars()).chain(tail.iter().copied()).collect()
}

/// Tokens of a text as a person would have written it; used by token counting.
pub fn count(tokens: &Tokens, text: &str) -> usize {
    tokens.encode(text, Origin::Message).len()
}
