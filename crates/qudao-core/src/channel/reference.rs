//! What a button carries that cannot carry what it says: which button of which message it is. The
//! value stays in the message that was sent, so that it outlives restarts and goes with an erasure.

use qudao_domain::{
    OutboxId,
    key::SecretHash,
    message::{ButtonAction, Part},
};

use super::adapter::Outgoing;

/// What stands between an outbox's id and a button's mark in a reference.
const REFERENCE_MARK: char = '.';

impl Outgoing<'_> {
    /// What a button carries that cannot carry its value: by this the host finds the value in the
    /// message that was sent, for whom it was sent to ([`EventBody::Recalled`](super::event::EventBody::Recalled)).
    /// 53 letters, digits and marks at most.
    pub fn reference(&self, id: &str, value: &str) -> String {
        format!("{}{REFERENCE_MARK}{}", self.id, mark_of(id, value))
    }
}

/// Which button of a message a reference means, told from the others by what it is and says.
fn mark_of(id: &str, value: &str) -> String {
    hex::encode(&SecretHash::of(&format!("{id}\0{value}")).as_bytes()[..8])
}

/// The outbox message that a reference names; `None` if it is none.
pub fn referred(reference: &str) -> Option<OutboxId> {
    reference.split_once(REFERENCE_MARK)?.0.parse().ok()
}

/// What the button says that a reference means, found among a message's parts.
pub fn recalled(reference: &str, parts: &[Part]) -> Option<String> {
    let (_, mark) = reference.split_once(REFERENCE_MARK)?;
    let pressed = |id: &str, value: &str, label: &str| {
        let said = if value.is_empty() { label } else { value };
        (mark_of(id, value) == mark).then(|| said.to_owned())
    };
    parts.iter().find_map(|part| match part {
        Part::Buttons { items, .. } | Part::Card { items, .. } => {
            items.iter().find_map(|item| match &item.action {
                ButtonAction::Postback { value } => pressed(&item.id, value, &item.label),
                ButtonAction::Url { .. } => None,
            })
        }
        Part::List { rows, .. } => {
            rows.iter().find_map(|row| pressed(&row.id, &row.value, &row.label))
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use qudao_domain::message::{Button, Message, Row};

    use super::*;

    #[test]
    fn a_reference_is_short_and_finds_its_button_among_all() {
        let (id, message) = (OutboxId::new(), Message::default());
        let text = id.to_string();
        let out = Outgoing {
            id: &text,
            piece: 0,
            thread: "7",
            message: &message,
            answered: None,
            preview_id: None,
            now: Timestamp::UNIX_EPOCH,
        };
        let long = "long ".repeat(40);
        let button = |id: &str, value: &str| Button {
            id: id.to_owned(),
            label: "Press".to_owned(),
            action: ButtonAction::Postback { value: value.to_owned() },
        };
        let items = vec![button("b1", "other"), button("b1", &long), button("b2", "")];
        let rows = vec![Row {
            id: "r1".to_owned(),
            label: "Row".to_owned(),
            description: None,
            value: "a row".to_owned(),
        }];
        let parts = [
            Part::Buttons { fallback_text: String::new(), items },
            Part::List { fallback_text: String::new(), label: String::new(), rows },
        ];
        let reference = out.reference("b1", &long);
        assert!(reference.len() <= 53, "{reference}");
        assert_eq!(referred(&reference), Some(id));
        assert_eq!(recalled(&reference, &parts).as_deref(), Some(&*long));
        assert_eq!(recalled(&out.reference("b2", ""), &parts).as_deref(), Some("Press"));
        assert_eq!(recalled(&out.reference("r1", "a row"), &parts).as_deref(), Some("a row"));
        assert_eq!(recalled(&out.reference("b3", &long), &parts), None);
        assert_eq!(recalled("nothing", &parts), None);
        assert_eq!(referred("con_00.x"), None);
    }
}
