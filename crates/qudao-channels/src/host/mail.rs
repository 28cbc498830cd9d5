//! Mailboxes: the one kind of channel that speaks no HTTP. They are fetched by the same leases as
//! platforms that are asked, and sent from the same outbox.

use std::{sync::Arc, time::Duration};

use qudao_core::channel::{
    adapter::Polled,
    config::ChannelConfig,
    plan::{MailPlan, RawResponse},
    setup::OpenChannel,
};
use qudao_domain::state::ChannelKind;
use qudao_egress::Egress;
use serde_json::Value;
use tokio::time::sleep;

use super::{Host, requests::NoAnswer};
use crate::email::{Dialer, imap::MailPoller, smtp};

/// Between two looks into a mailbox. Each signs in anew, and providers count that.
const BETWEEN: Duration = Duration::from_secs(20);

/// Whatever a look takes: the wait before it, signing in, and the mails.
pub(super) const LOOK: Duration = Duration::from_secs(150);

/// A dialer by the rules of `egress`; `None` if there are none, or no TLS.
pub(super) fn dialer(egress: Option<&Egress>) -> Option<Dialer> {
    match Dialer::new(egress?.rules().clone()) {
        Ok(dialer) => Some(dialer),
        Err(error) => {
            tracing::warn!(%error, "no mail can be fetched or sent");
            None
        }
    }
}

/// Whether a channel is a mailbox that is fetched.
pub(super) fn is_fetched(channel: &OpenChannel) -> bool {
    channel.kind == ChannelKind::Email && MailPoller::is_set_up(&channel.config)
}

impl Host {
    /// What came into a mailbox since the cursor, after a while.
    pub(super) async fn look_into_mailbox(
        self: &Arc<Self>,
        channel: &OpenChannel,
        cursor: Option<&Value>,
    ) -> Result<Polled, String> {
        if cursor.is_some() {
            sleep(BETWEEN).await;
        }
        let dialer = self.dialer.clone().ok_or_else(no_mail)?;
        let now = self.core.clock.now();
        MailPoller::new(dialer).fetch(&channel.config, cursor, now).await
    }

    /// Whether both servers of a mailbox take its passwords.
    pub(super) async fn try_mailbox(&self, config: &ChannelConfig) -> Result<(), String> {
        let dialer = self.dialer.as_ref().ok_or_else(no_mail)?;
        smtp::probe(dialer, config).await?;
        if MailPoller::is_set_up(config) {
            MailPoller::new(dialer.clone()).probe(config).await?;
        }
        Ok(())
    }

    /// Sends a mail.
    pub(super) async fn send_mail(&self, mail: &MailPlan) -> Result<RawResponse, NoAnswer> {
        match &self.dialer {
            Some(dialer) => Ok(smtp::send(dialer, mail).await),
            None => Err(NoAnswer::Impossible(no_mail())),
        }
    }
}

fn no_mail() -> String {
    "this machine cannot speak to mail servers".to_owned()
}
