use qudao_core::channel::{
    adapter::{FailureReason, Outcome},
    event::EventBody,
    plan::MailPlan,
};
use qudao_domain::message::{Message, TextFormat};
use serde_json::{Value, json};

use super::*;
use crate::stand::{self, NOW_S, now, only, out, parse, request, unknown, with, words};

const SECRET: &str = "a-long-random-inbound-secret";

fn config() -> ChannelConfig {
    stand::config(
        json!({"address": "Support@Shop.example", "name": "Shop", "smtp_host": "smtp.shop.example"}),
        json!({"inbound_secret": [SECRET, "the-old-inbound-secret"], "smtp_password": ["pw", "old"]}),
    )
}

fn post(mail: &str) -> RawRequest {
    with(request("POST", mail.replace('\n', "\r\n")), "x-inbound-secret", SECRET)
}

fn heard(mail: &str) -> qudao_core::channel::event::Event {
    only(parse(&Email, &config(), &post(mail)))
}

const HELLO: &str = "From: =?utf-8?q?Ad=C3=A4?= <Ada@Example.org>
To: support+spring24@shop.example
Subject: =?utf-8?b?8J+YgCBPcmRlciAxNw==?=
Message-ID: <m1@example.org>
Date: Sat, 28 Nov 2026 19:59:00 +0000
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: 8bit

Where is it? مرحبا
";

fn answer(config: &ChannelConfig, mail: &str) -> (MailPlan, String) {
    let event = only(parse(&Email, config, &post(mail)));
    let EventBody::Message { external_id, .. } = &event.body else { panic!("{:?}", event.body) };
    let message = Message::text(TextFormat::Markdown, "It **left** today. 😀\n\n- a\n- b");
    let thread = event.thread.external_id.clone();
    let plans = Email.render(config, &out(&thread, &message, Some((external_id, &event.raw))));
    match plans.unwrap().as_slice() {
        [Plan::Mail(plan)] => (plan.clone(), String::from_utf8(plan.message.clone()).unwrap()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_mail_is_a_message_of_its_sender_in_their_own_thread() {
    let event = heard(HELLO);
    assert_eq!(event.id, "m1@example.org");
    assert_eq!(event.sender.external_id, "ada@example.org");
    assert_eq!(event.sender.name.as_deref(), Some("Adä"));
    assert_eq!(words(&event), "😀 Order 17\n\nWhere is it? مرحبا");
    assert_eq!(event.attribution.unwrap().reference.as_deref(), Some("spring24"));
    assert_eq!(event.at.unwrap().as_second(), NOW_S - 60);
    assert!(event.thread.external_id.starts_with("ada@example.org "));

    // Somebody else who names the same thread is in another conversation.
    let other = HELLO.replace("Ada@Example.org", "eve@example.org").replace(
        "Message-ID: <m1@example.org>",
        "Message-ID: <m2@example.org>\nReferences: <m1@example.org>",
    );
    assert_ne!(heard(&other).thread.external_id, event.thread.external_id);
}

#[test]
fn an_answer_stays_in_its_thread_and_says_that_a_machine_wrote_it() {
    let config = config();
    let (plan, text) = answer(&config, HELLO);
    assert_eq!((plan.to.as_slice(), plan.port), (["ada@example.org".to_owned()].as_slice(), 465));
    for line in [
        "In-Reply-To: <m1@example.org>",
        "References: <m1@example.org>",
        "Auto-Submitted: auto-replied",
        "List-Unsubscribe: <mailto:Support@Shop.example?subject=unsubscribe>",
        "Content-Type: multipart/alternative",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    let mail = mail_parser::MessageParser::default().parse(&plan.message).unwrap();
    assert_eq!(mail.subject(), Some("Re: 😀 Order 17"));
    assert_eq!(
        mail.body_text(0).unwrap().trim().replace("\r\n", "\n"),
        "It left today. 😀\n\n- a\n- b"
    );
    assert!(mail.body_html(0).unwrap().contains("<strong>left</strong>"));
    assert_eq!(format!("<{}>", mail.message_id().unwrap()), plan.message_id);
    // Another attempt has the same id and the same bytes.
    assert_eq!(answer(&config, HELLO).0, plan);

    let reply = format!(
        "From: ada@example.org\nTo: support@shop.example\nSubject: Re: x\nMessage-ID: <m3@example.org>\n\
         In-Reply-To: {id}\nReferences: <m1@example.org> {id}\n\nThanks!\n\nOn Sat, Shop <support@shop.example> wrote:\n> It left\n",
        id = plan.message_id
    );
    let second = heard(&reply);
    assert_eq!(second.thread.external_id, heard(HELLO).thread.external_id);
    assert_eq!(words(&second), "Thanks!");
    let (_, text) = answer(&config, &reply);
    assert!(text.contains("In-Reply-To: <m3@example.org>"), "{text}");
}

#[test]
fn machines_are_not_answered() {
    let cases = [
        ("Auto-Submitted: auto-replied", "auto_submitted"),
        ("Auto-Submitted: auto-generated (vacation)", "auto_submitted"),
        ("Precedence: bulk", "bulk"),
        ("List-Id: <news.example.org>", "mailing_list"),
        ("X-Autoreply: yes", "auto_reply"),
        ("Return-Path: <>", "report"),
    ];
    for (line, kind) in cases {
        let mail = HELLO.replace("Subject:", &format!("{line}\nSubject:"));
        assert_eq!(unknown(&heard(&mail)), kind, "{line}");
    }
    let own = HELLO.replace("Ada@Example.org", "support@shop.example");
    assert_eq!(unknown(&heard(&own)), "own_mail");
    let daemon = HELLO.replace("Ada@Example.org", "MAILER-DAEMON@example.org");
    assert_eq!(unknown(&heard(&daemon)), "report");
    let person = HELLO.replace("Subject:", "Auto-Submitted: no\nSubject:");
    words(&heard(&person));
}

#[test]
fn two_machines_that_answer_each_other_are_parted() {
    let config = config();
    let ids = |count: u32, at: i64| {
        let ids =
            (0..count).map(|piece| message_id::make(&config, at, "out", piece, "ada@example.org"));
        ids.map(|id| format!(" <{id}>")).collect::<Vec<_>>().join("\n")
    };
    let with = |references: String| {
        HELLO.replace("Subject:", &format!("References: <m0@example.org>\n{references}\nSubject:"))
    };
    assert_eq!(unknown(&heard(&with(ids(10, NOW_S - 60)))), "loop");
    words(&heard(&with(ids(9, NOW_S - 60))));
    words(&heard(&with(ids(30, NOW_S - 90_000))));
}

fn report(id: &str, recipient: &str, status: &str) -> String {
    format!(
        "From: MAILER-DAEMON@mx.example\nTo: support@shop.example\nMessage-ID: <dsn@mx.example>\n\
         Return-Path: <>\nContent-Type: multipart/report; report-type=delivery-status; boundary=b\n\n\
         --b\nContent-Type: text/plain\n\nSorry.\n--b\nContent-Type: message/delivery-status\n\n\
         Reporting-MTA: dns; mx.example\n\nFinal-Recipient: rfc822; {recipient}\nAction: failed\nStatus: {status}\n\n\
         --b\nContent-Type: message/rfc822\n\nMessage-ID: {id}\nReferences: <m1@example.org>\nFrom: support@shop.example\nSubject: x\n\nx\n--b--\n"
    )
}

#[test]
fn a_bounce_of_a_mail_that_we_sent_makes_the_person_unreachable() {
    let (plan, _) = answer(&config(), HELLO);
    let event = heard(&report(&plan.message_id, "Ada@example.org", "5.1.1"));
    assert_eq!(event.body, EventBody::Unreachable);
    assert_eq!(event.sender.external_id, "ada@example.org");
    assert_eq!(event.thread, heard(HELLO).thread);

    // A forged one, one of somebody else's mail, and a delay do not.
    for (id, to, status) in [
        ("<qd.0.0123456789abcdef.0123456789abcdef@Shop.example>", "ada@example.org", "5.1.1"),
        (plan.message_id.as_str(), "bob@example.org", "5.1.1"),
        (plan.message_id.as_str(), "ada@example.org", "4.4.1"),
    ] {
        assert_eq!(unknown(&heard(&report(id, to, status))), "report");
    }
}

#[test]
fn who_wants_no_more_mails_says_so_in_a_word_or_by_the_link() {
    for (subject, body) in
        [("Re: x", "STOP."), ("unsubscribe", ""), ("x", "退订"), ("x", "Unsubscribe\n\n> old")]
    {
        let mail = format!(
            "From: a@b.example\nTo: support@shop.example\nReferences: <r@x>\nSubject: {subject}\nMessage-ID: <u@b>\nContent-Type: text/plain; charset=utf-8\n\n{body}\n"
        );
        assert_eq!(heard(&mail).body, EventBody::Unreachable, "{subject} {body}");
    }
    let asks = "From: a@b.example\nSubject: unsubscribe\nMessage-ID: <u@b>\n\nHow do I unsubscribe from the news that I get every single day?\n";
    words(&heard(asks));
}

#[test]
fn files_come_along_and_one_that_is_too_large_keeps_its_name() {
    let big = "QUJD".repeat((10 << 20) / 3);
    let mail = format!(
        "From: a@b.example\nSubject: files\nMessage-ID: <f@b>\nContent-Type: multipart/mixed; boundary=b\n\n\
         --b\nContent-Type: text/plain\n\nsee\n--b\nContent-Type: image/png\nContent-Disposition: attachment; filename=\"a.png\"\nContent-Transfer-Encoding: base64\n\nQUJD\n\
         --b\nContent-Type: application/pdf\nContent-Disposition: attachment; filename=\"b.pdf\"\nContent-Transfer-Encoding: base64\n\n{big}\n--b--\n"
    );
    let event = heard(&mail);
    let EventBody::Message { message, .. } = event.body else { panic!() };
    let files: Vec<_> = message.parts.iter().filter_map(|part| part.media()).collect();
    assert_eq!(files[0].url.as_deref(), Some("data:image/png;base64,QUJD"));
    assert_eq!((files[0].name.as_deref(), files[0].size), (Some("a.png"), Some(3)));
    assert_eq!((files[1].url.as_deref(), files[1].name.as_deref()), (None, Some("b.pdf")));
}

#[test]
fn only_the_secret_opens_the_door() {
    let body = || request("POST", HELLO.replace('\n', "\r\n"));
    let with_secret =
        |secret: &str| parse(&Email, &config(), &with(body(), "x-inbound-secret", secret));
    assert!(with_secret("the-old-inbound-secret").is_ok());
    for wrong in ["", "a-long-random-inbound-secre", "A-LONG-RANDOM-INBOUND-SECRET"] {
        assert!(matches!(with_secret(wrong), Err(Reject::Unauthorized(_))), "{wrong}");
    }
    assert!(matches!(parse(&Email, &config(), &body()), Err(Reject::Unauthorized(_))));
    let twice = with(with(body(), "x-inbound-secret", SECRET), "x-inbound-secret", SECRET);
    assert!(matches!(parse(&Email, &config(), &twice), Err(Reject::Unauthorized(_))));
    for empty in [json!({}), json!({"inbound_secret": ""}), json!({"inbound_secret": []})] {
        let config = stand::config(json!({"address": "a@b.example"}), empty);
        let given = with(body(), "x-inbound-secret", "");
        assert!(matches!(parse(&Email, &config, &given), Err(Reject::NotConfigured(_))));
    }
    assert!(matches!(parse(&Email, &config(), &post("")), Err(Reject::Malformed(_))));
    assert!(matches!(parse(&Email, &config(), &post("garbage")), Err(Reject::Malformed(_))));
}

#[test]
fn a_sender_whom_the_tenants_server_does_not_confirm_is_not_answered() {
    let mut config = config();
    config.settings.insert("authserv_id".to_owned(), Value::from("mx.shop.example"));
    let judged = |line: &str| {
        let mail = if line.is_empty() { HELLO.to_owned() } else { format!("{line}\n{HELLO}") };
        only(parse(&Email, &config, &post(&mail)))
    };
    words(&judged(
        "Authentication-Results: mx.shop.example; spf=pass; dmarc=pass header.from=example.org",
    ));
    for line in [
        "",
        "Authentication-Results: mx.shop.example; spf=pass; dmarc=fail",
        "Authentication-Results: evil.example; dmarc=pass",
        "Authentication-Results: evil.example; dmarc=pass\nAuthentication-Results: mx.shop.example; dmarc=pass",
    ] {
        assert_eq!(unknown(&judged(line)), "sender_not_confirmed", "{line}");
    }
}

#[test]
fn nothing_of_a_mail_gets_into_the_header_of_its_answer() {
    let mail = "From: a@b.example\nSubject: =?utf-8?q?x=0D=0ABcc:_evil=40x.example?=\nMessage-ID: <a b@x>\nReferences: <ok@x> <b\tc@x>\n\nHi\n";
    let (plan, text) = answer(&config(), mail);
    assert!(!text.lines().any(|line| line.to_lowercase().starts_with("bcc:")), "{text}");
    assert_eq!(plan.to, ["a@b.example"]);
    let strange = "From: \"a,b\"@b.example\nMessage-ID: <s@x>\n\nHi\n";
    assert_eq!(unknown(&heard(strange)), "address_not_answerable");
}

#[test]
fn what_a_server_says_is_understood() {
    let plan = Plan::Mail(answer(&config(), HELLO).0);
    let said = |status: u16, words: &str| {
        let response = RawResponse { status, body: words.into(), ..RawResponse::default() };
        Email.classify(&config(), &plan, &response)
    };
    assert!(
        matches!(said(250, "ok"), Outcome::Sent { external_id: Some(id) } if id.starts_with("qd."))
    );
    assert!(matches!(said(451, "4.7.1 greylisted"), Outcome::Retry { after: Some(_), .. }));
    assert!(matches!(said(0, "no connection"), Outcome::Retry { .. }));
    let failed = |status, words| match said(status, words) {
        Outcome::Failed(failure) => failure.reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(failed(535, "5.7.8 bad credentials"), FailureReason::Auth);
    assert_eq!(failed(550, "5.1.1 no such user"), FailureReason::RecipientUnknown);
    assert_eq!(failed(552, "5.3.4 too big"), FailureReason::TooLong);
    assert_eq!(failed(550, "5.7.1 refused"), FailureReason::Policy);
    assert_eq!(failed(599, "refused"), FailureReason::Policy);
}

#[test]
fn settings_that_cannot_work_are_named() {
    let check = |settings: Value, secrets: Value| {
        Email.check(&stand::config(settings, secrets)).map_err(|(field, _)| field)
    };
    let ok = json!({"address": "a@b.example", "imap_host": "imap.b.example"});
    assert_eq!(check(ok, json!({})), Ok(()));
    assert_eq!(check(json!({"address": "a"}), json!({})), Err("address"));
    assert_eq!(check(json!({"address": "a@b.example"}), json!({})), Err("imap_host"));
    let short = json!({"inbound_secret": "short"});
    assert_eq!(check(json!({"address": "a@b.example"}), short), Err("inbound_secret"));
    assert_eq!(now().as_second(), NOW_S);
}
