//! The signals, each by the cheapest way to it. One that cannot be had is unknown, and no rule that
//! asks for it matches.

use std::{sync::Arc, time::Duration};

use metrics::counter;
use qudao_domain::{
    Micros,
    routing::{Reading, Routing, Sentiment, Signal, Signals, personal},
};
use qudao_plugin_api::wire::{Classified, ClassifyRequest};
use qudao_plugin_host::{DataClass, ModelEntry};
use qudao_storage::StorageError;
use tokio::time;

use super::{Matter, language};
use crate::{Core, api::Aside};

/// How long the answer of a model that finds sentiment is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// Characters that such a model is shown: the last ones, for they are what the person came to.
const SHOWN: usize = 4_000;
/// Bytes of a token, for an estimate.
const BYTES_PER_TOKEN: usize = 4;

impl Core {
    pub(super) async fn gather(
        self: &Arc<Self>,
        signal: Signal,
        routing: &Routing,
        matter: &Matter,
        signals: &mut Signals,
    ) {
        match signal {
            Signal::Characters => {
                signals.characters = Some(Reading::Known(matter.text.chars().count() as u64));
            }
            Signal::PromptTokens => {
                let tokens = matter.prompt_bytes.div_ceil(BYTES_PER_TOKEN);
                signals.prompt_tokens = Some(Reading::Known(tokens as u64));
            }
            Signal::Modality => signals.modality = Some(Reading::Known(matter.modality.clone())),
            Signal::Language => signals.language = Some(language_of(&matter.text)),
            Signal::PersonalData => {
                signals.personal_data = Some(Reading::Known(personal_in(matter)))
            }
            Signal::Balance => signals.balance = Some(self.balance(matter).await),
            Signal::SpentThisMonth => {
                signals.spent_this_month = Some(self.spent_this_month(matter).await);
            }
            Signal::Sentiment => {
                let sentiment = self.sentiment(routing, matter).await;
                let outcome = if sentiment.known().is_some() { "known" } else { "unknown" };
                counter!("qudao_route_sentiments_total", "outcome" => outcome).increment(1);
                signals.sentiment = Some(sentiment);
            }
        }
    }

    /// Whether a route keeps from this model what comes before its rules are looked at: one that keeps
    /// words on the machine does not show them to somebody else to find out whether.
    pub(crate) fn is_withheld(&self, routing: &Routing, model: &str) -> bool {
        let is_remote = |entry: Arc<ModelEntry>| entry.data_class == DataClass::Remote;
        routing.keeps_local() && self.plugins.ready(model).is_ok_and(is_remote)
    }

    async fn balance(&self, matter: &Matter) -> Reading<Micros> {
        if let Some(available) = matter.available {
            return Reading::Known(available);
        }
        let read = async {
            let mut tx = self.store.begin(matter.tenant_id).await?;
            let wallet = tx.wallet().await?;
            tx.commit().await?;
            Ok::<_, StorageError>(wallet.map_or(Micros::ZERO, |wallet| wallet.available()))
        };
        read.await.map_or_else(|error| unreadable(&error), Reading::Known)
    }

    async fn spent_this_month(&self, matter: &Matter) -> Reading<Micros> {
        let read = async {
            let mut tx = self.store.begin(matter.tenant_id).await?;
            let spent = tx.spent_this_month().await?;
            tx.commit().await?;
            Ok::<_, StorageError>(spent)
        };
        let spent = self.routes.spent.try_get_with(matter.tenant_id, read).await;
        spent.map_or_else(|error| unreadable(&error), Reading::Known)
    }

    /// A call of its own in the books, booked once however often the turn begins anew.
    async fn sentiment(self: &Arc<Self>, routing: &Routing, matter: &Matter) -> Reading<Sentiment> {
        let Some(model) = &routing.sentiment_model else { return Reading::unknown("no_model") };
        if self.is_withheld(routing, model) {
            return Reading::unknown("remote");
        }
        let text = matter.text.trim();
        if text.is_empty() {
            return Reading::unknown("no_words");
        }
        let aside = Aside {
            tenant_id: matter.tenant_id,
            currency: matter.currency,
            policy: matter.policy,
            channel_id: matter.channel_id,
            id: matter.id.aside("sentiment"),
            place: matter.place,
        };
        let skipped = text.chars().count().saturating_sub(SHOWN);
        let shown: String = text.chars().skip(skipped).collect();
        let ask = ClassifyRequest::new(model, vec![shown]);
        match time::timeout(PATIENCE, self.ask_aside(aside, ask.into())).await {
            Ok(Ok(pieces)) => read_class(pieces),
            Ok(Err(error)) => Reading::unknown(error.class()),
            Err(_) => Reading::unknown("timeout"),
        }
    }
}

fn unreadable<T>(error: &StorageError) -> Reading<T> {
    tracing::warn!(%error, "a signal of a route cannot be read");
    Reading::unknown("storage")
}

fn language_of(text: &str) -> Reading<String> {
    language::detect(text)
        .map_or_else(|| Reading::unknown("unclear"), |language| Reading::Known(language.to_owned()))
}

fn personal_in(matter: &Matter) -> Vec<personal::Personal> {
    let mut found: Vec<_> = matter.all.iter().flat_map(|text| personal::find(text)).collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn read_class(pieces: Vec<serde_json::Value>) -> Reading<Sentiment> {
    let first = pieces.into_iter().next();
    let class = first.and_then(|piece| serde_json::from_value::<Classified>(piece).ok());
    let Some(Classified { label, scores, .. }) = class else {
        return Reading::unknown("unreadable");
    };
    // A model that abstains is not sure, and neither are we.
    let Some(label) = label else { return Reading::unknown("unsure") };
    let score = scores.iter().find(|score| score.label == label);
    let probability = score.map_or(0.0, |score| f64::from(score.probability));
    Reading::Known(Sentiment { label, probability })
}
