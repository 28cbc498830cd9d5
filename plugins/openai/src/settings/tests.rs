use serde_json::{Value, json};

use super::*;

fn settings(change: &Value) -> Settings {
    let mut all = json!({ "base_url": "https://models.example/v1/" });
    for (name, value) in change.as_object().unwrap() {
        all[name] = value.clone();
    }
    serde_json::from_value(all).unwrap()
}

fn refusal(change: &Value) -> String {
    let settings = settings(change);
    let key = match settings.key() {
        Ok(key) => key,
        Err(failure) => return failure.message,
    };
    settings.client_config(key.as_deref()).err().map_or_else(String::new, |failure| failure.message)
}

#[test]
fn the_address_loses_its_closing_slash() {
    use async_openai::config::Config as _;
    let config = settings(&json!({})).client_config(None).unwrap();
    assert_eq!(config.url("/chat/completions"), "https://models.example/v1/chat/completions");
}

#[test]
fn a_setting_that_cannot_be_used_is_named() {
    for (change, named) in [
        (json!({ "base_url": "models.example" }), "base_url"),
        (json!({ "base_url": "ftp://models.example" }), "base_url"),
        (json!({ "base_url": "https://me:secret@models.example" }), "base_url"),
        (json!({ "base_url": "https://models.example/v1?version=1" }), "base_url"),
        (json!({ "api_key": "" }), "api_key"),
        (json!({ "api_key": "line\nbreak" }), "api_key"),
        (json!({ "api_key": "a", "api_key_env": "B" }), "api_key_env"),
        (json!({ "api_key_env": "QUDAO_TEST_NOT_SET" }), "QUDAO_TEST_NOT_SET"),
        (json!({ "organization": "a\u{7}" }), "organization"),
        (json!({ "extra_headers": { "bad name": "x" } }), "bad name"),
        (json!({ "extra_headers": { "x-team": "\n" } }), "extra_headers.x-team"),
    ] {
        let said = refusal(&change);
        assert!(said.contains(named), "{change}: {said:?}");
        assert!(!said.contains("secret"), "{said:?}");
    }
}

#[test]
fn what_makes_no_sense_for_a_tenants_address_is_refused() {
    for (change, said) in [
        (json!({ "base_url": "http://models.example.com/v1" }), "scheme_not_allowed"),
        (json!({ "base_url": "https://127.0.0.1/v1" }), "address_not_public"),
        (json!({ "base_url": "https://[::ffff:10.0.0.1]/v1" }), "address_not_public"),
        (json!({ "base_url": "https://0x7f.1/v1" }), "address_not_public"),
        (json!({ "base_url": "https://localhost/v1" }), "address_not_public"),
        (json!({ "base_url": "https://metadata.google.internal/v1" }), "address_not_public"),
        (json!({ "base_url": "https://models.example.com:6379/v1" }), "port_not_allowed"),
        (json!({ "base_url": "https://me:secret@models.example.com/v1" }), "has_user_info"),
        (json!({ "base_url": "https://models.example.com\\@127.0.0.1/v1" }), "url_malformed"),
        (json!({ "api_key_env": "OPENAI_API_KEY" }), "variable of the platform"),
        (json!({ "api_key_env": "QUDAO_OPERATOR_KEY" }), "variable of the platform"),
        (json!({ "api_key_env": "DATABASE_URL" }), "variable of the platform"),
        (json!({ "extra_headers": { "Host": "admin.internal" } }), "extra_headers.Host"),
        (json!({ "extra_headers": { "transfer-encoding": "x" } }), "transfer-encoding"),
    ] {
        let mut public = json!({ "egress": "public", "base_url": "https://models.example.com/v1" });
        for (name, value) in change.as_object().unwrap() {
            public[name] = value.clone();
        }
        let settings = settings(&public);
        let refused = settings.check_reach(&settings.rules().unwrap()).unwrap_err().message;
        assert!(refused.contains(said) && !refused.contains("secret"), "{change}: {refused}");
    }
    let own = json!({ "egress": "public", "base_url": "https://models.example.com/v1",
        "api_key_env": "ACME_MODEL_KEY", "extra_headers": { "x-team": "a" } });
    let own = settings(&own);
    assert!(own.check_reach(&own.rules().unwrap()).is_ok());
    assert!(settings(&json!({})).rules().is_none());
    assert!(serde_json::from_value::<Reach>(json!("internal")).is_err());
}

#[test]
fn an_unknown_setting_is_refused() {
    let misspelt = json!({ "base_url": "https://models.example", "apikey": "x" });
    assert!(serde_json::from_value::<Settings>(misspelt).is_err());
}

#[test]
fn the_key_is_not_in_the_debug_text() {
    let shown = format!("{:?}", settings(&json!({ "api_key": "sk-hidden" })));
    assert!(!shown.contains("sk-hidden"), "{shown}");
}
