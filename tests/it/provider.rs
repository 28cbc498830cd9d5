//! The openai plugin in front of a provider that behaves and misbehaves.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::platform::{Platform, Wanted, built, openai_instance};

struct Upstream {
    child: Child,
    base_url: String,
}

impl Upstream {
    fn start() -> Self {
        let mut child = Command::new(built("upstream")).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let base_url = format!("{}/v1", line.trim());
        Self { child, base_url }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn status_and_code(platform: &Platform, model: &str) -> (StatusCode, String) {
    let body = json!({ "model": model, "messages": [{ "role": "user", "content": "hi" }] });
    let (status, answer) = platform.tenant(Method::POST, "/v1/chat/completions", Some(body)).await;
    (status, answer["error"]["code"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_provider_answers_and_its_failures_look_different_to_the_caller() {
    let upstream = Upstream::start();
    let models = ["mock-json", "mock-401", "mock-429", "mock-500", "mock-cut"];
    let mut settings = openai_instance(&upstream.base_url, &models);
    settings.push('\n');
    let platform = Platform::start_with(Wanted { settings, ..Wanted::default() }).await;
    let tenant = platform.text("tenant_id");
    let (status, answer) = platform
        .tenant(
            Method::POST,
            &format!("/v1/tenants/{tenant}/routes"),
            Some(json!({ "name": "remote", "models": models })),
        )
        .await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");

    assert_eq!(status_and_code(&platform, "mock-json").await.0, StatusCode::OK);
    let refused = status_and_code(&platform, "mock-401").await;
    let limited = status_and_code(&platform, "mock-429").await;
    let broken = status_and_code(&platform, "mock-500").await;
    assert_eq!(limited.0, StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.0.is_server_error() && broken.0.is_server_error(), "{refused:?} {broken:?}");
    assert_ne!(refused.1, broken.1);
    platform.assert_books_balance();
}
