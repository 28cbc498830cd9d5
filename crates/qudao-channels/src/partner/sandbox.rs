//! The sandbox: answers without a model and without charge, the same to the same words, and magic
//! words that make things happen which are rare and have to be coped with.

use std::time::Duration;

use qudao_domain::capability::{Capabilities, Streaming};
use qudao_domain::message::{Button, ButtonAction, Media, Message, Part, Row, TextFormat};
use qudao_pcp::{Accepted, Event, kind};
use qudao_storage::{PartnerFile, Tx};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::{
    MediaLink, capabilities,
    keys::rotate_in,
    queue::{Place, Say, announce, say_with, tell},
    receive::{self, Kept, Received, Refused, Said, Setting},
    rules::GOOD_FOR,
};

/// A refusal that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The status.
    pub status: u16,
    /// How long to wait.
    pub retry_after: Option<Duration>,
    /// How often.
    pub(super) times: u32,
}

struct Reply {
    message: Message,
    delay: Duration,
    expires_in: Duration,
    fault: Option<&'static str>,
}

#[derive(Default)]
struct Play {
    replies: Vec<Reply>,
    deltas: Vec<String>,
    refuse: Option<Refusal>,
    rotate: bool,
    handoff: bool,
    media: bool,
}

const SAMPLE: &[u8] = "A file of the sandbox. 沙盒里的文件。\n".as_bytes();

fn reply(parts: Vec<Part>) -> Reply {
    let message = Message { parts, reply_to: None };
    Reply { message, delay: Duration::ZERO, expires_in: GOOD_FOR, fault: None }
}

fn words(text: impl Into<String>) -> Reply {
    reply(vec![Part::Text { format: TextFormat::Plain, text: text.into() }])
}

/// What is done about these words.
fn play(said: &Said, caps: &Capabilities) -> Play {
    let text = said.text.trim();
    let mut all = text.split_whitespace();
    let magic = all.next().unwrap_or_default();
    let numbers: Vec<u64> =
        all.filter_map(|word| word.trim_start_matches('x').parse().ok()).collect();
    let number = |at: usize, default: u64| numbers.get(at).copied().unwrap_or(default);
    let one = |reply| Play { replies: vec![reply], ..Play::default() };
    let echo = || {
        let parts = if said.parts.is_empty() {
            vec![Part::Text { format: TextFormat::Plain, text: said.text.clone() }]
        } else {
            said.parts.clone()
        };
        reply(parts)
    };
    match magic {
        "!fail" => Play {
            refuse: Some(Refusal {
                status: u16::try_from(number(0, 500))
                    .ok()
                    .filter(|s| (400..600).contains(s))
                    .unwrap_or(500),
                retry_after: None,
                times: u32::try_from(number(1, 1).min(10)).unwrap_or(1),
            }),
            ..one(echo())
        },
        "!429" => {
            let retry_after = Some(Duration::from_secs(number(0, 1).min(60)));
            Play { refuse: Some(Refusal { status: 429, retry_after, times: 1 }), ..one(echo()) }
        }
        "!slow" => one(Reply { delay: Duration::from_secs(number(0, 20).min(600)), ..echo() }),
        "!dup" => one(Reply { fault: Some("dup"), ..echo() }),
        "!reorder" => {
            let swapped = |text| Reply { fault: Some("reorder"), ..words(text) };
            Play { replies: vec![swapped("first"), swapped("second")], ..Play::default() }
        }
        "!expire" => one(Reply {
            delay: Duration::from_secs(1),
            expires_in: Duration::ZERO,
            ..words("This must never be shown.")
        }),
        "!big" => one(words(big(caps))),
        "!stream" => {
            let count = number(0, 40).clamp(1, 500);
            let deltas: Vec<_> = (1..=count).map(|at| format!("word{at} ")).collect();
            Play { replies: vec![words(deltas.concat().trim_end())], deltas, ..Play::default() }
        }
        "!buttons" => one(reply(vec![buttons()])),
        "!list" => one(reply(vec![list()])),
        "!media" => Play { media: true, ..one(reply(vec![sample()])) },
        "!rotate" => Play { rotate: true, ..one(echo()) },
        "!handoff" => Play { handoff: true, ..one(words("Somebody will be with you.")) },
        _ => one(echo()),
    }
}

/// Words of two and a half times what one message holds, in which each place is told by a number.
fn big(caps: &Capabilities) -> String {
    let wanted = caps.text.max.saturating_mul(5) / 2;
    let (mut text, mut length) = (String::new(), 0);
    for at in 1.. {
        let next = format!("{at} 🙂 ");
        length += caps.text.unit.count(&next);
        text.push_str(&next);
        if wanted <= length {
            break;
        }
    }
    text.trim_end().to_owned()
}

fn buttons() -> Part {
    let button = |id: &str, label: &str, action| Button {
        id: id.to_owned(),
        label: label.to_owned(),
        action,
    };
    let postback = |value: &str| ButtonAction::Postback { value: value.to_owned() };
    Part::Buttons {
        fallback_text: "1) Yes  2) No".to_owned(),
        items: vec![button("b1", "Yes", postback("yes")), button("b2", "No", postback("no"))],
    }
}

fn list() -> Part {
    let row = |id: &str, label: &str| Row {
        id: id.to_owned(),
        label: label.to_owned(),
        description: None,
        value: label.to_lowercase(),
    };
    Part::List {
        fallback_text: "1) Tea  2) Coffee".to_owned(),
        label: "Drinks".to_owned(),
        rows: vec![row("r1", "Tea"), row("r2", "Coffee")],
    }
}

fn sample_id() -> Uuid {
    let hash = Sha256::digest(SAMPLE);
    Uuid::from_slice(&hash[..16]).unwrap_or_default()
}

fn sample() -> Part {
    Part::File(Media {
        upload_id: Some(MediaLink::name(sample_id())),
        mime: Some("text/plain".to_owned()),
        size: u64::try_from(SAMPLE.len()).ok(),
        sha256: Some(hex::encode(Sha256::digest(SAMPLE))),
        name: Some("sample.txt".to_owned()),
        ..Media::default()
    })
}

/// Answers a message: its acceptance and all of its answer are one transaction.
pub(super) async fn answer(
    setting: &Setting<'_>,
    event: &Event,
    said: &Said,
    mut kept: Kept,
) -> Result<Received, Refused> {
    let config = &setting.channel.config;
    let channel_id = config.channel_id;
    let thread = receive::thread_of(event);
    let caps = capabilities(&setting.partner.capabilities);
    let play = play(said, &caps);
    let mut tx = setting.core.store.begin(config.tenant_id).await?;
    if let Some(refusal) = play.refuse.filter(|refusal| kept.refuse_once_more(refusal.times)) {
        receive::keep(&mut tx, setting, event, &kept).await?;
        tx.commit().await?;
        return Err(Refused::OnPurpose(refusal));
    }
    let hash = hex::encode(Sha256::digest(said.external_id.as_bytes()));
    let mut state = tx.lock_partner_thread(channel_id, thread).await?;
    let conversation = conversation(&channel_id.to_string(), thread);
    let seq = state.in_seq + 1;
    let first = Accepted {
        event_id: event.id.clone(),
        message_id: Some(receive::message_id(&conversation, seq)),
        conversation_id: Some(format!("cnv_{conversation}")),
        duplicate: false,
    };
    let named = (&*format!("message:{hash}"), "message", thread);
    let record = json!({ "answer": first, "answers": seq });
    let known = tx.claim_channel_event(channel_id, named, &record).await?;
    let known = known.and_then(|known| Kept::known_message(known.body));
    if let Some((before, answers)) = known {
        let accepted = Accepted { event_id: event.id.clone(), duplicate: true, ..before };
        let kept = kept.with_answer(&accepted, answers);
        receive::keep(&mut tx, setting, event, &kept).await?;
        tx.commit().await?;
        return Ok(receive::received(accepted, thread, Some(answers), None));
    }
    state.in_seq = seq;
    tx.set_partner_thread(channel_id, thread, state).await?;
    let answered = !state.handed_off;
    if answered {
        let place = Place {
            tenant_id: config.tenant_id,
            channel_id,
            thread,
            conversation_id: first.conversation_id.as_deref(),
        };
        perform(&mut tx, setting, place, said, &play, seq).await?;
    }
    let kept = kept.with_answer(&first, seq);
    receive::keep(&mut tx, setting, event, &kept).await?;
    tx.commit().await?;
    if play.rotate {
        setting.core.forget_channel(config.tenant_id, channel_id).await;
    }
    announce(setting.core, channel_id).await;
    let received = receive::received(first, thread, answered.then_some(seq), None);
    Ok(Received { deltas: play.deltas, ..received })
}

fn conversation(channel: &str, thread: &str) -> String {
    let hash = Sha256::digest(format!("{channel}\n{thread}").as_bytes());
    hex::encode(&hash[..16])
}

async fn perform(
    tx: &mut Tx,
    setting: &Setting<'_>,
    place: Place<'_>,
    said: &Said,
    play: &Play,
    seq: i64,
) -> Result<(), Refused> {
    let config = &setting.channel.config;
    let caps = capabilities(&setting.partner.capabilities);
    let now = setting.core.clock.now();
    receive::type_if_shown(tx, setting, place.thread).await?;
    if play.media {
        let file = PartnerFile {
            mime: "text/plain".to_owned(),
            name: Some("sample.txt".to_owned()),
            sha256: Sha256::digest(SAMPLE).to_vec(),
            bytes: SAMPLE.to_vec(),
        };
        tx.keep_partner_file(place.channel_id, sample_id(), &file).await?;
    }
    if play.rotate {
        rotate_in(tx, setting.core, setting.channel, true).await?;
    }
    if play.handoff {
        let data = json!({ "reason": "asked" });
        tell(tx, place, kind::HANDOFF_REQUESTED, data, now).await?;
    }
    let links = MediaLink::of(config, setting.base);
    let asked = Some(said.external_id.as_str());
    let mut messages: Vec<Message> =
        play.replies.iter().map(|reply| reply.message.clone()).collect();
    messages.iter_mut().for_each(|message| message.reply_to = asked.map(str::to_owned));
    let says: Vec<_> = play
        .replies
        .iter()
        .zip(&messages)
        .map(|(reply, message)| Say {
            message,
            in_reply_to: asked,
            answers: seq,
            delay: reply.delay,
            expires_in: reply.expires_in,
            fault: reply.fault,
            ..Say::default()
        })
        .collect();
    let said = say_with(tx, place, &caps, links.as_ref(), &says, now).await?;
    said.map_err(|rejected| Refused::Field("/data/message/parts", rejected.to_string()))?;
    if caps.stream == Streaming::Edit && !play.deltas.is_empty() {
        edits(tx, place, play, caps.edit.min_interval_ms, now).await?;
    }
    Ok(())
}

/// Where a partner shows growth by edits: the message's last words again, a few times, no faster
/// than it can take.
async fn edits(
    tx: &mut Tx,
    place: Place<'_>,
    play: &Play,
    interval: u64,
    now: jiff::Timestamp,
) -> Result<(), Refused> {
    let steps = 3_usize;
    for step in 1..=steps {
        let upto = play.deltas.len() * step / steps;
        let text = play.deltas[..upto].concat();
        let part = Part::Text { format: TextFormat::Plain, text: text.trim_end().to_owned() };
        let data = json!({
            "message": qudao_pcp::WireMessage::of(&[part]),
            "final": step == steps,
        });
        let delay =
            Duration::from_millis(interval).saturating_mul(u32::try_from(step).unwrap_or(1));
        super::queue::tell_later(tx, place, kind::MESSAGE_UPDATED, data, (delay, now)).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Said {
        Said { external_id: "m-1".into(), parts: vec![], text: text.into(), reply_to: None }
    }

    #[test]
    fn plain_words_come_back_and_magic_words_do_what_they_say() {
        let caps = Capabilities::default();
        let of = |text: &str| play(&said(text), &caps);
        assert_eq!(of("Hello").replies[0].message.to_text(), "Hello");
        let refusal = of("!fail 503 x3").refuse.unwrap();
        assert_eq!((refusal.status, refusal.times), (503, 3));
        assert_eq!(of("!fail 200").refuse.unwrap().status, 500);
        assert_eq!(of("!429 7").refuse.unwrap().retry_after, Some(Duration::from_secs(7)));
        assert_eq!(of("!slow 20").replies[0].delay, Duration::from_secs(20));
        assert_eq!(of("!stream 40").deltas.len(), 40);
        assert_eq!(of("!reorder").replies.len(), 2);
        let text = of("!big").replies[0].message.to_text();
        assert!(caps.text.max < text.chars().count());
    }
}
