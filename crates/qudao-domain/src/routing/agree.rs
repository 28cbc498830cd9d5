//! How much two answers agree.

/// Whether two texts have the same letters and digits in the same order, whatever their case,
/// punctuation and spaces.
pub fn same_text(one: &str, other: &str) -> bool {
    let plain = |text: &str| -> Vec<char> {
        text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
    };
    plain(one) == plain(other)
}

/// The cosine of the angle between two vectors; `None` where one has no length or they do not match.
pub fn cosine(one: &[f32], other: &[f32]) -> Option<f64> {
    if one.len() != other.len() {
        return None;
    }
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    let lengths = dot(one, one).sqrt() * dot(other, other).sqrt();
    (0.0 < lengths).then(|| (dot(one, other) / lengths).clamp(-1.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_and_punctuation_are_no_difference_and_words_are() {
        assert!(same_text("Yes, it is open.", "yes it is OPEN"));
        assert!(same_text("是的，营业。", "是的 营业"));
        assert!(!same_text("Yes.", "No."));
    }

    #[test]
    fn a_cosine_is_one_for_one_direction_and_absent_without_any() {
        assert_eq!(cosine(&[1.0, 1.0], &[2.0, 2.0]).map(|c| (c * 1e6).round()), Some(1e6));
        assert_eq!(cosine(&[1.0, 0.0], &[0.0, 3.0]), Some(0.0));
        assert_eq!(cosine(&[0.0, 0.0], &[1.0, 0.0]), None);
        assert_eq!(cosine(&[1.0], &[1.0, 0.0]), None);
    }
}
