//! What a person wrote, without the mail that they answer. Mail programs mark the quoted part in
//! their own words; what no rule knows stays, since too much is better than a lost sentence.

/// How mail programs begin and mark the line above a quotation, in lower case. It ends in a colon.
const ATTRIBUTIONS: &[(&str, &str)] = &[
    ("on ", " wrote"),
    ("am ", " schrieb"),
    ("le ", " a écrit"),
    ("el ", " escribió"),
    ("il ", " ha scritto"),
    ("em ", " escreveu"),
    ("", "写道"),
    ("", "寫道"),
    ("", "さんは書きました"),
];
/// Lines under which everything is quoted, in lower case.
const RULES: &[&str] = &[
    "-----original message-----",
    "----- original message -----",
    "-----ursprüngliche nachricht-----",
    "---------- forwarded message ---------",
    "------------------ 原始邮件 ------------------",
    "------------------ original ------------------",
    "-----原始邮件-----",
    "________________________________",
];
/// The first field of a quoted header, in lower case; the next lines hold other fields.
const FIELDS: &[&str] = &["from:", "von:", "de:", "发件人:", "发件人：", "寄件者:", "寄件者："];
const OTHER_FIELDS: &[&str] = &[
    "sent:",
    "date:",
    "to:",
    "subject:",
    "gesendet:",
    "an:",
    "betreff:",
    "envoyé",
    "发送时间",
    "收件人",
    "主题",
    "日期",
    "寄件日期",
    "收件者",
    "主旨",
];

/// The new words of a mail: without the quotation at its end and the signature.
pub(super) fn strip(text: &str) -> String {
    let text = text.replace("\r\n", "\n");
    let lines: Vec<&str> = text.lines().collect();
    let end = (0..lines.len()).find(|at| begins_quotation(&lines, *at)).unwrap_or(lines.len());
    let mut kept = &lines[..end];
    // The separator of a signature (RFC 3676, section 4.3).
    if let Some(at) = kept.iter().position(|line| matches!(*line, "-- " | "--")) {
        kept = &kept[..at];
    }
    let kept = kept.join("\n").trim().to_owned();
    if !kept.is_empty() {
        return kept;
    }
    // Somebody who answers below the quotation has no words above it.
    let rest = &lines[end..];
    let quoted = rest.iter().take(4).position(|line| line.starts_with('>')).unwrap_or(0);
    let own = rest[quoted..].iter().filter(|line| !line.starts_with('>'));
    own.copied().collect::<Vec<_>>().join("\n").trim().to_owned()
}

fn begins_quotation(lines: &[&str], at: usize) -> bool {
    let line = lines[at].trim().to_lowercase();
    let next = lines.get(at + 1).map(|line| line.trim().to_lowercase()).unwrap_or_default();
    if RULES.contains(&line.as_str()) {
        return true;
    }
    if FIELDS.iter().any(|field| line.starts_with(field)) {
        return OTHER_FIELDS.iter().any(|field| next.starts_with(field));
    }
    // An attribution may be broken into two lines.
    let is_attribution = |line: &str| {
        let marked = |(begin, mark): &(&str, &str)| line.starts_with(begin) && line.contains(mark);
        line.ends_with([':', '：']) && ATTRIBUTIONS.iter().any(marked)
    };
    let quoted = |from: usize| {
        let mut rest = lines[from.min(lines.len())..].iter().filter(|line| !line.trim().is_empty());
        rest.next().is_none_or(|line| line.starts_with('>'))
    };
    (is_attribution(&line) && (quoted(at + 1) || line.contains('@') || line.contains("写道")))
        || (is_attribution(&format!("{line} {next}")) && quoted(at + 2))
        || (line.starts_with('>') && lines[at..].iter().all(|line| quoted_or_empty(line)))
}

fn quoted_or_empty(line: &str) -> bool {
    line.trim().is_empty() || line.starts_with('>')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quotation_goes_and_the_words_stay() {
        let cases = [
            (
                "Yes.\n\nOn Mon, 3 Nov 2026 at 10:00, Shop <s@x.example> wrote:\n> Hi\n> there",
                "Yes.",
            ),
            ("Ja!\r\n\r\nAm 03.11.2026 um 10:00 schrieb Shop:\r\n> Hallo", "Ja!"),
            ("好的\n\n在 2026-11-03 10:00:00，Shop <s@x.example> 写道：\n> 您好", "好的"),
            ("是\n\n------------------ 原始邮件 ------------------\n发件人: \"Shop\"\n您好", "是"),
            ("OK\n\nFrom: Shop\nSent: Monday\nTo: Ada\n\nHello", "OK"),
            ("OK\n-- \nAda\nTel. 123", "OK"),
            // Words between those of others are read with them.
            ("> Which?\nThe red one.", "> Which?\nThe red one."),
            ("On Monday, Shop\n<s@x.example> wrote:\n> Hi\n\nBelow.", "Below."),
            ("مرحبا 😀\n> x", "مرحبا 😀"),
        ];
        for (text, wanted) in cases {
            assert_eq!(strip(text), wanted, "{text}");
        }
    }

    #[test]
    fn what_only_looks_like_a_quotation_stays() {
        let texts =
            ["From: where do you ship?\nThanks", "I read what he wrote:\nnonsense", "a > b", ""];
        for text in texts {
            assert_eq!(strip(text), text);
        }
    }
}
