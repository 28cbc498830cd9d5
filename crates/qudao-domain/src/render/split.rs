//! A text in pieces of a length that a channel takes.

use crate::capability::Unit;

/// What a fence and its line end may take of a piece.
const FENCE_ROOM: usize = 40;

/// The text in pieces of at most `max` units, none empty. Cut between paragraphs if that leaves no
/// piece less than half full, else between lines, else between words, else anywhere. A code block
/// that is cut is closed, and opened again in the next piece.
pub fn split(text: &str, max: usize, unit: Unit) -> Vec<String> {
    let max = max.max(1);
    let mut pieces = Vec::new();
    let mut rest = text.trim_matches('\n').to_owned();
    while !rest.trim().is_empty() {
        if unit.count(&rest) <= max {
            pieces.push(rest);
            break;
        }
        let (head, tail) = cut(&rest, max, unit);
        if !head.trim().is_empty() {
            pieces.push(head);
        }
        rest = tail;
    }
    pieces
}

fn cut(text: &str, max: usize, unit: Unit) -> (String, String) {
    let fenced = FENCE_ROOM * 2 < max && text.contains("```");
    let room = if fenced { max - FENCE_ROOM } else { max };
    let at = place(text, room, unit);
    let (head, tail) = text.split_at(at);
    let mut head = head.trim_end().to_owned();
    let mut tail = tail.trim_start_matches([' ', '\n']).to_owned();
    if fenced && let Some(opening) = open_fence(&head) {
        head.push_str("\n```");
        tail = format!("{opening}\n{tail}");
    }
    (head, tail)
}

/// Where to cut: a byte position after the first character at least.
fn place(text: &str, room: usize, unit: Unit) -> usize {
    let mut taken = 0;
    let mut end = text.len();
    for (at, letter) in text.char_indices() {
        taken += unit.of(letter);
        if room < taken {
            end = at;
            break;
        }
    }
    if end == 0 {
        // A single character is longer than the room: it goes out whole.
        return text.chars().next().map_or(text.len(), char::len_utf8);
    }
    let window = &text[..end];
    let half = end / 2;
    let after = |mark: &str| window.rfind(mark).map(|at| at + mark.len());
    let marks = ["\n\n", "\n", "。", "！", "？", " "];
    let best = marks.iter().filter_map(|mark| after(mark)).find(|at| half <= *at);
    best.or_else(|| after(" ")).filter(|at| !window[..*at].trim().is_empty()).unwrap_or(end)
}

/// The opening line of the code block that is open at the end of the text.
fn open_fence(text: &str) -> Option<String> {
    let mut open: Option<&str> = None;
    for line in text.lines().map(str::trim_start).filter(|line| line.starts_with("```")) {
        open = if open.is_some() { None } else { Some(line) };
    }
    open.map(|line| line.chars().take(FENCE_ROOM / 2).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_cuts_at_paragraphs_before_lines_before_words() {
        let pieces = |text: &str| split(text, 20, Unit::Chars);
        assert_eq!(pieces("First words.\n\nSecond words."), ["First words.", "Second words."]);
        assert_eq!(pieces("First words,\nsecond words."), ["First words,", "second words."]);
        assert_eq!(pieces("One two three four five six"), ["One two three four", "five six"]);
        assert_eq!(pieces(&"x".repeat(45)), ["x".repeat(20), "x".repeat(20), "x".repeat(5)]);
        assert_eq!(pieces("你好。".repeat(8).as_str()), ["你好。".repeat(6), "你好。".repeat(2)]);
        assert!(pieces(" \n\n ").is_empty());
    }

    #[test]
    fn a_code_block_that_is_cut_is_opened_again() {
        let code = "let a = 1;\n".repeat(20);
        let pieces = split(&format!("See:\n```rust\n{code}```\nDone."), 120, Unit::Chars);
        assert!(1 < pieces.len());
        for piece in &pieces {
            assert_eq!(piece.matches("```").count() % 2, 0, "{piece}");
            assert!(piece.chars().count() <= 120, "{piece}");
        }
        assert!(pieces[1].starts_with("```rust\n"));
    }

    proptest! {
        #[test]
        fn no_piece_is_too_long_or_empty_and_no_word_is_lost(
            text in "(?s)[a-c😀你 \n]{0,400}", max in 4..60_usize, unit in 0..3_usize
        ) {
            let unit = [Unit::Chars, Unit::Utf16, Unit::Bytes][unit];
            let pieces = split(&text, max, unit);
            for piece in &pieces {
                prop_assert!(unit.count(piece) <= max);
                prop_assert!(!piece.trim().is_empty());
            }
            let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            prop_assert_eq!(letters(&pieces.concat()), letters(&text));
        }
    }
}
