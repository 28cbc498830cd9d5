//! What the operator sees: plugins that are refused, reloads, and `qudao check` under load.

use std::{fs, time::Duration};

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::platform::{Platform, Wanted, workspace};

#[tokio::test]
async fn a_tampered_plugin_is_refused_with_the_reason_and_the_rest_serves() {
    let folder = tempfile::tempdir().unwrap();
    let copied = std::process::Command::new("cp")
        .args(["-r", "--"])
        .arg(workspace().join("target/test-plugins/rogue"))
        .arg(folder.path())
        .status()
        .unwrap();
    assert!(copied.success());
    let library =
        fs::read_dir(folder.path().join("rogue/lib")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&library).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&library, bytes).unwrap();

    let platform = Platform::start_with(Wanted {
        plugin_dirs: vec![folder.path().to_owned()],
        settings: "[[instances]]\nname = \"broken\"\nplugin = \"rogue\"\n\
                   [[instances.models]]\nname = \"broken\"\n"
            .to_owned(),
        ..Wanted::default()
    })
    .await;
    let (status, plugins) = platform.operator(Method::GET, "/v1/plugins", None).await;
    assert_eq!(status, StatusCode::OK);
    let text = plugins.to_string();
    assert!(text.contains("failed") && text.contains("sha256"), "{text}");
    let body = json!({ "model": "echo", "messages": [{ "role": "user", "content": "hi" }] });
    let (status, _) = platform.tenant(Method::POST, "/v1/chat/completions", Some(body)).await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn plugins_are_reloaded_under_load_without_a_failed_call() {
    let platform = Platform::start().await;
    let calls = async {
        for n in 0..60 {
            let text = format!("call {n}");
            let body =
                json!({ "model": "echo", "messages": [{ "role": "user", "content": text }] });
            let (status, answer) =
                platform.tenant(Method::POST, "/v1/chat/completions", Some(body)).await;
            assert_eq!(status, StatusCode::OK, "{answer}");
        }
    };
    let reloads = async {
        for _ in 0..3 {
            let (status, report) =
                platform.operator(Method::POST, "/v1/plugins/echo/reload", None).await;
            assert!(status.is_success(), "{status} {report}");
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    };
    tokio::join!(calls, reloads);
    platform.assert_books_balance();
}

#[tokio::test]
async fn another_tenants_key_and_no_key_see_nothing() {
    let platform = Platform::start().await;
    let (_, other) = platform
        .operator(
            Method::POST,
            "/v1/tenants",
            Some(json!({ "name": "Other", "currency": "CNY", "locale": "zh" })),
        )
        .await;
    let other = other["id"].as_str().unwrap();
    for path in ["wallet", "conversations", "usage", "ledger", "assistants", "api-keys"] {
        let path = format!("/v1/tenants/{other}/{path}");
        let (status, body) = platform.tenant(Method::GET, &path, None).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path} {body}");
        let (status, _) = platform.send(Method::GET, &path, "qk_live_nonsense", &[], None).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}");
    }
}
