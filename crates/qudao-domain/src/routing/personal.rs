//! Personal data that can be told by its form: addresses, numbers with a check digit. What has no form,
//! such as names, is not found.

use serde::{Deserialize, Serialize};

/// A kind of personal data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Personal {
    /// In conditions: whichever kind.
    Any,
    /// An e-mail address.
    Email,
    /// A telephone number: a Chinese mobile one, or one with its country's code.
    Phone,
    /// The number of a payment card, whose check digit is right (Luhn).
    Card,
    /// A Chinese resident identity number, whose date and check digit are right (GB 11643).
    NationalId,
}

/// The kinds of which something is in the text, without repetition, in the order of [`Personal`].
pub fn find(text: &str) -> Vec<Personal> {
    let chars: Vec<char> = text.chars().map(narrow).collect();
    let mut found = Vec::new();
    if has_email(&chars) {
        found.push(Personal::Email);
    }
    let numbers = numbers(&chars);
    if numbers.iter().any(is_phone) {
        found.push(Personal::Phone);
    }
    if numbers.iter().any(|number| is_card(&number.digits)) {
        found.push(Personal::Card);
    }
    if numbers.iter().any(is_national_id) {
        found.push(Personal::NationalId);
    }
    found
}

/// The letters, digits and signs of Chinese keyboards that are twice as wide, as their narrow forms.
fn narrow(c: char) -> char {
    match c {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(c) - 0xff01 + 0x21).unwrap_or(c),
        '\u{3000}' => ' ',
        c => c,
    }
}

fn has_email(chars: &[char]) -> bool {
    let local = |c: &char| c.is_alphanumeric() || matches!(c, '.' | '_' | '%' | '+' | '-');
    let domain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    chars.iter().enumerate().filter(|(_, c)| **c == '@').any(|(at, _)| {
        let before = at.checked_sub(1).and_then(|before| chars.get(before)).is_some_and(local);
        let host: String = chars[at + 1..].iter().take_while(|c| domain(c)).collect();
        let labels: Vec<_> = host.trim_end_matches(['.', '-']).split('.').collect();
        let last = labels.last().copied().unwrap_or_default();
        let named = 2 <= last.len() && last.bytes().all(|b| b.is_ascii_alphabetic());
        before && 2 <= labels.len() && named && labels.iter().all(|label| !label.is_empty())
    })
}

/// A run of digits, with single separators between them as people write numbers.
struct Number {
    digits: Vec<u8>,
    /// A plus stood before it.
    plus: bool,
    /// A letter X stood behind it, and nothing of a word after that.
    x: bool,
    /// No separator is in it.
    plain: bool,
}

/// Every longest run, and beside it its parts between separators: `Mai 7 13812345678` is two numbers.
fn numbers(chars: &[char]) -> Vec<Number> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        if !chars[at].is_ascii_digit() || follows_word(chars, at) {
            at += 1;
            continue;
        }
        let end = end_of_run(chars, at);
        push_number(&mut found, chars, at, end);
        push_parts(&mut found, chars, at, end);
        at = end;
    }
    found
}

/// Digits at the end of a word, such as those of a hash, are no number of somebody.
fn follows_word(chars: &[char], at: usize) -> bool {
    at.checked_sub(1).is_some_and(|before| {
        let c = chars[before];
        c.is_ascii_alphanumeric() || c == '_'
    })
}

fn is_separator(c: char) -> bool {
    matches!(c, ' ' | '-' | '.' | '(' | ')' | '\u{a0}')
}

fn end_of_run(chars: &[char], start: usize) -> usize {
    let mut end = start;
    while end < chars.len() {
        let gap = chars[end..].iter().take_while(|c| is_separator(**c)).count();
        let digit = chars.get(end + gap).is_some_and(char::is_ascii_digit);
        // `(0) 20` has two signs in a row, a sentence that goes on has more.
        if chars[end].is_ascii_digit() {
            end += 1;
        } else if (1..=2).contains(&gap) && digit {
            end += gap;
        } else {
            break;
        }
    }
    end
}

fn push_number(found: &mut Vec<Number>, chars: &[char], start: usize, end: usize) {
    let run = &chars[start..end];
    let digits = run.iter().filter_map(|c| c.to_digit(10)).filter_map(|d| u8::try_from(d).ok());
    let mut before = chars[..start].iter().rev().filter(|c| **c != '(');
    let next = chars.get(end).copied();
    let after = chars.get(end + 1).copied();
    let ends = |c: Option<char>| c.is_none_or(|c| !c.is_ascii_alphanumeric());
    found.push(Number {
        digits: digits.collect(),
        plus: before.next() == Some(&'+'),
        x: matches!(next, Some('x' | 'X')) && ends(after),
        plain: run.iter().all(char::is_ascii_digit),
    });
}

fn push_parts(found: &mut Vec<Number>, chars: &[char], start: usize, end: usize) {
    let mut at = start;
    while at < end {
        let length = chars[at..end].iter().take_while(|c| c.is_ascii_digit()).count();
        if 0 < length && at + length - at < end - start {
            push_number(found, chars, at, at + length);
        }
        at += length.max(1);
    }
}

fn is_phone(number: &Number) -> bool {
    let digits = match number.digits.as_slice() {
        [8, 6, rest @ ..] if rest.len() == 11 => rest,
        digits => digits,
    };
    let mobile = digits.len() == 11 && digits[0] == 1 && 3 <= digits[1];
    // Shortest and longest of ITU-T E.164, which has the country's code in front.
    let international = number.plus && (8..=15).contains(&number.digits.len());
    // Three groups, as in North America; in one run that would be any number.
    let grouped = !number.plain && number.digits.len() == 10 && 2 <= number.digits[0];
    mobile || international || grouped
}

fn is_card(digits: &[u8]) -> bool {
    // Of the industries that ISO/IEC 7812 gives to travel and banking.
    let issued = digits.first().is_some_and(|first| matches!(first, 2..=6));
    (13..=19).contains(&digits.len()) && issued && luhn(digits)
}

fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(at, digit)| match (at % 2, u32::from(*digit)) {
            (0, digit) => digit,
            (_, digit) if digit < 5 => digit * 2,
            (_, digit) => digit * 2 - 9,
        })
        .sum();
    sum.is_multiple_of(10)
}

fn is_national_id(number: &Number) -> bool {
    const WEIGHTS: [u32; 17] = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2];
    let digits = &number.digits;
    let check = match (digits.len(), number.x) {
        (18, _) => u32::from(digits[17]),
        (17, true) => 10,
        _ => return false,
    };
    let value = |range: std::ops::Range<usize>| {
        digits[range].iter().fold(0_u32, |sum, digit| sum * 10 + u32::from(*digit))
    };
    let born = (1900..=2099).contains(&value(6..10))
        && (1..=12).contains(&value(10..12))
        && (1..=31).contains(&value(12..14));
    let sum: u32 = digits.iter().zip(WEIGHTS).map(|(d, weight)| u32::from(*d) * weight).sum();
    number.plain && born && (12 - sum % 11) % 11 == check
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_are_found_in_any_sentence() {
        for text in [
            "write to ada@example.com, please",
            "我的邮箱是ada.b+c@mail.example.cn。",
            "ａｄａ＠ｅｘａｍｐｌｅ．ｃｏｍ",
        ] {
            assert_eq!(find(text), [Personal::Email], "{text}");
        }
        for text in ["@ada on the forum", "a@b", "2 @ 3.50", "mail@.com", "me@host.4"] {
            assert_eq!(find(text), [], "{text}");
        }
    }

    #[test]
    fn telephone_numbers_are_found_as_people_write_them() {
        for text in [
            "电话13812345678",
            "call +49 30 901820 tomorrow",
            "+86 138-1234-5678",
            "(415) 555-2671 is mine",
            "１３８１２３４５６７８",
            "order 7 13812345678",
        ] {
            assert_eq!(find(text), [Personal::Phone], "{text}");
        }
        for text in ["order 20261129001", "in 2026", "4711", "12812345678", "a13812345678"] {
            assert_eq!(find(text), [], "{text}");
        }
    }

    #[test]
    fn cards_need_their_check_digit() {
        // Numbers that the networks publish for tests.
        for text in ["4111 1111 1111 1111", "5500-0000-0000-0004", "card 378282246310005."] {
            assert!(find(text).contains(&Personal::Card), "{text}");
        }
        for text in ["4111 1111 1111 1112", "1111 1111 1111 1117", "4111"] {
            assert!(!find(text).contains(&Personal::Card), "{text}");
        }
    }

    #[test]
    fn identity_numbers_need_a_birthday_and_their_check_digit() {
        for text in ["身份证11010519491231002X", "11010519491231002x", "440524188001010014"] {
            let found = find(text).contains(&Personal::NationalId);
            // The last one was born too early for a person who writes today.
            assert_eq!(found, !text.starts_with("4405241880"), "{text}");
        }
        for text in ["110105194912310021", "11010519491331002X", "11010519491231002Xa"] {
            assert!(!find(text).contains(&Personal::NationalId), "{text}");
        }
    }

    #[test]
    fn a_text_without_any_has_none() {
        assert_eq!(find("Where is my parcel? It was due on 29 November 2026 at 10:30."), []);
        assert_eq!(find("我的包裹在哪里？订单号 88001"), []);
        assert_eq!(find(""), []);
    }

    proptest! {
        #[test]
        fn any_text_can_be_read(text in any::<String>()) {
            let found = find(&text);
            prop_assert!(found.is_sorted());
            prop_assert!(!found.contains(&Personal::Any));
        }

        #[test]
        fn words_around_a_card_do_not_hide_it(before in "[a-z\u{4e00}-\u{4f00} ]{0,8}", after in "[,。 ][a-z ]{0,8}") {
            let text = format!("{before} 4111111111111111{after}");
            prop_assert!(find(&text).contains(&Personal::Card));
        }
    }
}
