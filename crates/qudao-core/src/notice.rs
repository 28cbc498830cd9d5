//! What the platform itself says to an end user, in the tenant's language.

/// Something the platform has to say in place of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// The tenant's credits do not cover an answer. The end user is not told about money.
    NoFunds,
    /// Every attempt to answer failed.
    GaveUp,
    /// The person stopped the answer before its first word.
    Stopped,
}

impl Notice {
    /// The text in the language of `locale`, a BCP 47 tag: Chinese for `zh…`, else English.
    pub fn text(self, locale: &str) -> &'static str {
        match (self, is_chinese(locale)) {
            (Self::NoFunds, true) => "抱歉，服务暂时不可用，请稍后再试。",
            (Self::NoFunds, false) => {
                "Sorry, this service is unavailable at the moment. Please try again later."
            }
            (Self::GaveUp, true) => "抱歉，刚才没能回答您的问题，请再发一次。",
            (Self::GaveUp, false) => {
                "Sorry, I could not answer that. Please send your message again."
            }
            (Self::Stopped, true) => "已停止。",
            (Self::Stopped, false) => "Stopped.",
        }
    }
}

pub(crate) fn is_chinese(locale: &str) -> bool {
    let language = locale.split(['-', '_']).next().unwrap_or_default();
    language.eq_ignore_ascii_case("zh")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_language_follows_the_locale_and_falls_back_to_english() {
        for locale in ["zh", "zh-CN", "ZH_tw"] {
            assert!(Notice::GaveUp.text(locale).contains("抱歉"), "{locale}");
        }
        for locale in ["en", "en-GB", "", "fr", "zhx"] {
            assert!(Notice::GaveUp.text(locale).contains("Sorry"), "{locale}");
        }
    }
}
