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
