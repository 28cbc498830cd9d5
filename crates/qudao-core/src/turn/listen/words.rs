//! What is told of a sound whose words are not known, in the conversation's language.

/// For a sound in which nobody speaks.
pub(super) fn silent(locale: &str, voice: bool) -> String {
    told(locale, voice, "in which nobody speaks", "其中没有人说话")
}

/// For a sound that no model could listen to.
pub(super) fn unheard(locale: &str, voice: bool) -> String {
    told(locale, voice, "that could not be listened to", "未能收听")
}

/// For an assistant that has no model to listen with.
pub(super) fn deaf(locale: &str, voice: bool) -> String {
    let english = "that you cannot listen to; say so, and ask for it in writing";
    told(locale, voice, english, "你无法收听；请如实告知，并请对方用文字再发一次")
}

/// In brackets where it stands in the place of somebody's own words.
fn told(locale: &str, voice: bool, english: &str, chinese: &str) -> String {
    match (locale.starts_with("zh"), voice) {
        (false, true) => format!("[a voice message {english}]"),
        (false, false) => format!("a sound {english}"),
        (true, true) => format!("[一条语音消息，{chinese}]"),
        (true, false) => format!("一段音频，{chinese}"),
    }
}
