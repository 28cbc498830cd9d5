//! What a button of ours carries, so that a platform that gives back its data alone tells what was
//! pressed. Without state: the value goes along if it fits, else what the button says stands for it.

/// What goes into a button's data of at most `max` bytes: `q:`, which button, `:`, its value.
pub(crate) fn carry(id: &str, value: &str, max: usize) -> String {
    let room = max.saturating_sub(3);
    let id: String = id.chars().filter(|letter| *letter != ':').collect();
    let mut id = id.as_str();
    while room < id.len() {
        let mut letters = id.chars();
        letters.next_back();
        id = letters.as_str();
    }
    let value = if id.len() + value.len() <= room { value } else { "" };
    format!("q:{id}:{value}")
}

/// What a pressed button says: its value, else `label`. Data that is not ours says itself.
pub(crate) fn said(data: &str, label: Option<&str>) -> String {
    let ours = data.strip_prefix("q:").and_then(|rest| rest.split_once(':'));
    let value = ours.map_or(data, |(_, value)| value);
    let said = if value.is_empty() { label.unwrap_or_default() } else { value };
    let id = ours.map(|(id, _)| id).unwrap_or_default();
    if said.is_empty() { id.to_owned() } else { said.to_owned() }
}

/// The first characters, and an ellipsis if there were more.
pub(crate) fn cut(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    let kept: String = text.chars().take(max.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_button_says_its_value_or_its_label() {
        assert_eq!(said(&carry("b:1", "handoff:now", 100), Some("Talk")), "handoff:now");
        assert_eq!(said(&carry("b1", "", 100), Some("Talk")), "Talk");
        assert_eq!(said(&carry("b1", "", 100), None), "b1");
        assert_eq!(said("theirs:1", Some("Theirs")), "theirs:1");
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        let carried = carry("b1", &"😀".repeat(30), 100);
        assert_eq!(carried, "q:b1:");
        assert!(carry(&"你".repeat(60), "x", 100).len() <= 100);
    }
}
