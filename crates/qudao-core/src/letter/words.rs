//! What stands in the platform's own letters, in Chinese and English.

use jiff::Timestamp;

use super::Mail;
use crate::notice::is_chinese;

/// Who says something in a copy of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Voice {
    /// Whoever gets the copy.
    Person,
    /// The assistant, or the platform in its place.
    Assistant,
}

/// One message of a copy.
#[derive(Debug, Clone)]
pub struct Line {
    /// Who.
    pub voice: Voice,
    /// What.
    pub text: String,
    /// When.
    pub at: Timestamp,
}

/// A code, in one sentence.
pub fn code_text(locale: &str, channel: &str, code: &str) -> String {
    let channel = one_line(channel);
    if is_chinese(locale) {
        format!("{code} 是您在“{channel}”的验证码，10 分钟内有效。请勿告诉任何人。")
    } else {
        format!(
            "{code} is your code for {channel}. It is good for 10 minutes. Do not tell it to anybody."
        )
    }
}

/// The mail that brings a code.
pub fn code_mail(locale: &str, channel: &str, to: &str, code: &str) -> Mail {
    let (subject, ignore) = if is_chinese(locale) {
        (format!("验证码 {code}"), "如果不是您本人操作，请忽略此邮件：没有验证码，什么都不会发生。")
    } else {
        (
            format!("Your code: {code}"),
            "If you did not ask for it, do nothing: without the code nothing happens.",
        )
    };
    let said = code_text(locale, channel, code);
    Mail {
        to: to.to_owned(),
        from_name: one_line(channel),
        subject,
        text: format!("{said}\n\n{ignore}\n"),
        html: format!(
            "<p>{}</p><p style=\"font-size:24px;letter-spacing:4px\"><strong>{code}</strong></p>\
             <p>{}</p>",
            escape(&said),
            escape(ignore)
        ),
    }
}

/// The mail with a copy of a conversation. What was said is text in it, whatever it looks like.
pub fn transcript_mail(
    locale: &str,
    channel: &str,
    assistant: &str,
    to: &str,
    lines: &[Line],
) -> Mail {
    let channel = one_line(channel);
    let chinese = is_chinese(locale);
    let (subject, you, note) = if chinese {
        (
            format!("您与“{channel}”的对话"),
            "您",
            format!(
                "有人在“{channel}”的对话窗口中填写了此邮箱，请求发送这份对话记录。如果不是您本人操作，请忽略此邮件。其中的回答由 AI 生成。"
            ),
        )
    } else {
        (
            format!("Your conversation with {channel}"),
            "You",
            format!(
                "Somebody asked in the chat of {channel} to send this conversation to this address. \
                 If it was not you, do nothing. The answers in it are made by an AI."
            ),
        )
    };
    let (mut text, mut html) = (String::new(), String::new());
    for Line { voice, text: said, at } in lines {
        let who = match voice {
            Voice::Person => you,
            Voice::Assistant => assistant,
        };
        let at = at.strftime("%Y-%m-%d %H:%M UTC");
        text.push_str(&format!("{at} · {}\n{said}\n\n", one_line(who)));
        html.push_str(&format!(
            "<p dir=\"auto\"><small>{at} · {}</small><br>{}</p>",
            escape(&one_line(who)),
            escape(said).replace('\n', "<br>")
        ));
    }
    text.push_str(&format!("--\n{note}\n"));
    html.push_str(&format!("<hr><p><small>{}</small></p>", escape(&note)));
    Mail { to: to.to_owned(), from_name: channel, subject, text, html }
}

/// The mail that tells a partner that nothing is sent to its endpoint any more.
pub fn endpoint_paused_mail(locale: &str, channel: &str, to: &str, host: &str) -> Mail {
    let channel = one_line(channel);
    let (subject, said) = if is_chinese(locale) {
        (
            format!("“{channel}”的接收地址已暂停"),
            format!(
                "发往 {host} 的请求连续失败，因此已暂停向该地址发送事件。事件不会丢失：我们会每分钟试探一次，地址恢复后继续按顺序发送；您也可以用 SSE 或拉取方式读取。"
            ),
        )
    } else {
        (
            format!("The endpoint of {channel} is paused"),
            format!(
                "Requests to {host} kept failing, so no events are sent there for now. Nothing is lost: \
                 we try once a minute and go on in order when it answers again. You can also read the \
                 events over SSE or by pulling."
            ),
        )
    };
    Mail {
        to: to.to_owned(),
        from_name: channel,
        subject,
        html: format!("<p>{}</p>", escape(&said)),
        text: format!("{said}\n"),
    }
}

/// Nothing that a header or a line of its own could be made of.
fn one_line(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect()
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            char => escaped.push(char),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_is_text_and_no_markup() {
        let said = "<script>alert(1)</script>\n& \"so\" 'on'";
        let line = |voice| Line { voice, text: said.to_owned(), at: Timestamp::UNIX_EPOCH };
        let lines = [line(Voice::Person), line(Voice::Assistant)];
        let mail = transcript_mail("en", "A\r\nBcc: x", "<b>Bot</b>", "a@b.example", &lines);
        assert!(!mail.html.contains("<script>") && !mail.html.contains("<b>"), "{}", mail.html);
        assert!(mail.html.contains("&lt;script&gt;alert(1)&lt;/script&gt;<br>&amp;"));
        assert!(!mail.subject.contains(['\r', '\n']) && !mail.from_name.contains('\n'));
        assert!(mail.text.contains(said) && mail.text.contains("1970-01-01 00:00 UTC · You"));
        let chinese = transcript_mail("zh-CN", "小店", "小助手", "a@b.example", &lines);
        assert!(chinese.subject.contains("小店") && chinese.text.contains("· 您"));
    }

    #[test]
    fn a_code_is_told_in_the_readers_language() {
        for (locale, word) in [("zh", "验证码"), ("en", "code"), ("fr", "code")] {
            let mail = code_mail(locale, "Shop <b>", "a@b.example", "012345");
            assert!(mail.subject.contains("012345") && mail.subject.contains(word));
            assert!(mail.text.contains("012345") && mail.html.contains("012345"));
            assert!(!mail.html.contains("<b>"));
        }
    }
}
