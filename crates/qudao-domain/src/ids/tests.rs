use proptest::prelude::*;

use super::*;

#[test]
fn an_id_survives_its_text_form() {
    let id = ConversationId::new();
    assert_eq!(id.to_string().parse(), Ok(id));
}

#[test]
fn an_id_of_another_kind_does_not_parse() {
    let tenant = TenantId::new().to_string();
    assert_eq!(tenant.parse::<ConversationId>(), Err(ParseIdError { prefix: "cnv" }));
}

#[test]
fn other_spellings_of_the_same_uuid_do_not_parse() {
    let uuid = ConversationId::new().as_uuid();
    for text in [
        format!("cnv_{}", uuid.hyphenated()),
        format!("cnv_{}", uuid.simple().to_string().to_uppercase()),
        format!("cnv_{{{}}}", uuid.simple()),
        "cnv_".to_owned(),
        String::new(),
    ] {
        assert!(text.parse::<ConversationId>().is_err(), "{text}");
    }
}

#[test]
fn a_turn_id_depends_on_the_conversation_and_the_first_message_only() {
    let conversation = ConversationId::new();
    assert_eq!(TurnId::derive(conversation, 4), TurnId::derive(conversation, 4));
    assert_ne!(TurnId::derive(conversation, 4), TurnId::derive(conversation, 5));
    assert_ne!(TurnId::derive(conversation, 4), TurnId::derive(ConversationId::new(), 4));
}

proptest! {
    #[test]
    fn any_text_is_an_id_that_writes_itself_so_or_none(
        text in "(ten|key|cnv)_[0-9a-fA-F]{31,33}|(ten_)?[0-9a-f-]{36}|\\PC{0,40}",
    ) {
        if let Ok(id) = text.parse::<TenantId>() {
            prop_assert_eq!(id.to_string(), text);
        }
    }
}
