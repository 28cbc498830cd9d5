//! In which language a text is. The script decides where it belongs to one language; else trigrams do
//! (whatlang), and only where they are sure: a few Latin letters may be anything.

use whatlang::{Lang, Script};

/// Letters of a script without which a text is too short to tell.
const LETTERS_MIN: usize = 3;
/// The least confidence in a language among those that share a script.
const SURE: f64 = 0.5;

/// The code of the text's language: two letters (ISO 639-1), or three where it has no other.
pub(super) fn detect(text: &str) -> Option<&'static str> {
    let kana = text.chars().filter(|c| matches!(*c, '\u{3040}'..='\u{30ff}')).count();
    let han =
        text.chars().filter(|c| matches!(*c, '\u{4e00}'..='\u{9fff}' | '\u{3400}'..='\u{4dbf}'));
    let (han, letters) = (han.count(), text.chars().filter(|c| c.is_alphabetic()).count());
    // Chinese is written among Latin names and codes; one sign says as much as a word.
    if 0 < kana {
        return Some("ja");
    }
    if 0 < han && letters <= 6 * han {
        return Some("zh");
    }
    if letters < LETTERS_MIN {
        return None;
    }
    let found = whatlang::detect(text)?;
    let alone = !matches!(
        found.script(),
        Script::Latin | Script::Cyrillic | Script::Arabic | Script::Devanagari | Script::Hebrew
    );
    (alone || found.is_reliable() || SURE <= found.confidence()).then(|| code(found.lang()))
}

/// ISO 639-1, where the language has a code of two letters.
fn code(lang: Lang) -> &'static str {
    let known = CODES.iter().find(|(known, _)| *known == lang);
    known.map_or_else(|| lang.code(), |(_, code)| code)
}

const CODES: [(Lang, &str); 70] = [
    (Lang::Epo, "eo"),
    (Lang::Eng, "en"),
    (Lang::Rus, "ru"),
    (Lang::Cmn, "zh"),
    (Lang::Spa, "es"),
    (Lang::Por, "pt"),
    (Lang::Ita, "it"),
    (Lang::Ben, "bn"),
    (Lang::Fra, "fr"),
    (Lang::Deu, "de"),
    (Lang::Ukr, "uk"),
    (Lang::Kat, "ka"),
    (Lang::Ara, "ar"),
    (Lang::Hin, "hi"),
    (Lang::Jpn, "ja"),
    (Lang::Heb, "he"),
    (Lang::Yid, "yi"),
    (Lang::Pol, "pl"),
    (Lang::Amh, "am"),
    (Lang::Jav, "jv"),
    (Lang::Kor, "ko"),
    (Lang::Nob, "nb"),
    (Lang::Dan, "da"),
    (Lang::Swe, "sv"),
    (Lang::Fin, "fi"),
    (Lang::Tur, "tr"),
    (Lang::Nld, "nl"),
    (Lang::Hun, "hu"),
    (Lang::Ces, "cs"),
    (Lang::Ell, "el"),
    (Lang::Bul, "bg"),
    (Lang::Bel, "be"),
    (Lang::Mar, "mr"),
    (Lang::Kan, "kn"),
    (Lang::Ron, "ro"),
    (Lang::Slv, "sl"),
    (Lang::Hrv, "hr"),
    (Lang::Srp, "sr"),
    (Lang::Mkd, "mk"),
    (Lang::Lit, "lt"),
    (Lang::Lav, "lv"),
    (Lang::Est, "et"),
    (Lang::Tam, "ta"),
    (Lang::Vie, "vi"),
    (Lang::Urd, "ur"),
    (Lang::Tha, "th"),
    (Lang::Guj, "gu"),
    (Lang::Uzb, "uz"),
    (Lang::Pan, "pa"),
    (Lang::Aze, "az"),
    (Lang::Ind, "id"),
    (Lang::Tel, "te"),
    (Lang::Pes, "fa"),
    (Lang::Mal, "ml"),
    (Lang::Ori, "or"),
    (Lang::Mya, "my"),
    (Lang::Nep, "ne"),
    (Lang::Sin, "si"),
    (Lang::Khm, "km"),
    (Lang::Tuk, "tk"),
    (Lang::Aka, "ak"),
    (Lang::Zul, "zu"),
    (Lang::Sna, "sn"),
    (Lang::Afr, "af"),
    (Lang::Lat, "la"),
    (Lang::Slk, "sk"),
    (Lang::Cat, "ca"),
    (Lang::Tgl, "tl"),
    (Lang::Hye, "hy"),
    (Lang::Cym, "cy"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_are_told_apart_and_scraps_are_not() {
        for (text, language) in [
            ("你好", Some("zh")),
            ("我的订单 A-4711 在哪里？", Some("zh")),
            ("iPhone 15 Pro Max 有货吗", Some("zh")),
            ("注文した商品はどこですか", Some("ja")),
            ("제 소포가 어디에 있나요", Some("ko")),
            ("Where is the parcel that I ordered last week?", Some("en")),
            ("Wo ist das Paket, das ich letzte Woche bestellt habe?", Some("de")),
            ("Πού είναι το δέμα μου;", Some("el")),
            ("ok", None),
            ("4711", None),
            ("👍", None),
            ("", None),
        ] {
            assert_eq!(detect(text), language, "{text}");
        }
    }
}
