//! Requests that adapters want made: addresses are judged, tokens put in, answers read within
//! bounds.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method, header::CONTENT_TYPE};
use metrics::counter;
use qudao_core::channel::{
    adapter::ChannelAdapter,
    plan::{ACCESS_TOKEN, HttpPlan, RawResponse},
    setup::OpenChannel,
};
use qudao_egress::Limits;
use tokio::time::Instant;

use super::{HeldToken, Host};

/// A token is fetched anew so long before it ends.
const TOKEN_MARGIN: Duration = Duration::from_secs(60);

/// A request that got no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoAnswer {
    /// It cannot be made at all: its address or header breaks a rule.
    #[error("{0}")]
    Impossible(String),
    /// The platform's credentials are not accepted.
    #[error("{0}")]
    NoToken(String),
    /// Nothing came back.
    #[error("{0}")]
    Failed(String),
}

impl Host {
    /// Makes a request. An answer of whatever status is one.
    pub(super) async fn request(
        &self,
        channel: &OpenChannel,
        adapter: &dyn ChannelAdapter,
        plan: &HttpPlan,
    ) -> Result<RawResponse, NoAnswer> {
        let needs_token = plan.url.contains(ACCESS_TOKEN)
            || plan.headers.iter().any(|(_, value)| value.contains(ACCESS_TOKEN));
        if !needs_token {
            return self.send(channel, plan, None).await;
        }
        let token = self.token(channel, adapter).await?;
        self.send(channel, plan, Some(&token.token.text)).await
    }

    /// Forgets a channel's access token, which the platform does not accept any more.
    pub(super) async fn drop_token(&self, channel: &OpenChannel) {
        self.tokens.invalidate(&(channel.config.channel_id, channel.revision)).await;
    }

    async fn token(
        &self,
        channel: &OpenChannel,
        adapter: &dyn ChannelAdapter,
    ) -> Result<Arc<HeldToken>, NoAnswer> {
        let key = (channel.config.channel_id, channel.revision);
        if let Some(held) = self.tokens.get(&key).await {
            if Instant::now() < held.until {
                return Ok(held);
            }
            self.tokens.invalidate(&key).await;
        }
        let fetch = async {
            let Some(plan) = adapter.token(&channel.config) else {
                return Err(NoAnswer::NoToken("the channel's credentials are missing".to_owned()));
            };
            let response = self.send(channel, &plan, None).await?;
            let token = adapter.read_token(&response).map_err(NoAnswer::NoToken)?;
            let until = Instant::now() + token.ttl.saturating_sub(TOKEN_MARGIN);
            Ok(Arc::new(HeldToken { token, until }))
        };
        self.tokens.try_get_with(key, fetch).await.map_err(|error| NoAnswer::clone(&error))
    }

    async fn send(
        &self,
        channel: &OpenChannel,
        plan: &HttpPlan,
        token: Option<&str>,
    ) -> Result<RawResponse, NoAnswer> {
        let Some(egress) = &self.egress else {
            let why = "this machine has no certificates of authorities";
            return Err(NoAnswer::Impossible(why.to_owned()));
        };
        let put_in = |text: &str| match token {
            Some(token) => text.replace(ACCESS_TOKEN, token),
            None => text.to_owned(),
        };
        let impossible = |error: &dyn std::fmt::Display| NoAnswer::Impossible(error.to_string());
        let url = egress.url(&put_in(&plan.url)).map_err(|error| impossible(&error))?;
        let method = Method::from_bytes(plan.method.as_bytes()).map_err(|e| impossible(&e))?;
        let mut headers = HeaderMap::new();
        for (name, value) in &plan.headers {
            let name = HeaderName::try_from(name.as_str()).map_err(|e| impossible(&e))?;
            let mut value = HeaderValue::try_from(put_in(value)).map_err(|e| impossible(&e))?;
            value.set_sensitive(true);
            headers.append(name, value);
        }
        let body = self.body_of(&channel.config, plan).await?;
        if let Some(content_type) = body.content_type {
            headers.insert(CONTENT_TYPE, content_type);
        }
        let egress = egress.with_limits(Limits {
            total: plan.timeout,
            body_bytes: plan.answer_max,
            ..Limits::default()
        });
        let outcome = egress.request(method, &url, headers, body.bytes).await;
        let kind = channel.kind.as_str();
        let counted = |outcome: &'static str| {
            counter!("qudao_channel_requests_total", "channel" => kind, "outcome" => outcome)
                .increment(1);
        };
        match outcome {
            Ok(response) => {
                counted(match response.status().as_u16() {
                    200..300 => "success",
                    429 => "throttled",
                    400..500 => "refused",
                    _ => "failed",
                });
                let (head, body) = response.into_parts();
                Ok(RawResponse { status: head.status.as_u16(), headers: head.headers, body })
            }
            Err(error) => {
                counted("failed");
                Err(NoAnswer::Failed(error.to_string()))
            }
        }
    }
}
