//! One test per rule that a plugin can break; after each the platform and, where the placement
//! allows, the plugin serve the next request.

use std::time::Duration;

use qudao_plugin_host::{
    CallError, Event, InstanceSettings, ModelState, Placement, PluginHost, TimeoutKind,
};

use crate::stage::{Stage, ask, read, say, until, until_crashes, until_idle};

const BOTH: [Placement; 2] = [Placement::Process, Placement::Inproc];

/// How long a token is waited for where none comes.
const SHORT: Duration = Duration::from_secs(2);
/// Where one comes, however busy the machine is.
const LONG: Duration = Duration::from_secs(10);

/// Waits so long for the first token of a request, and between two.
async fn rogue_within(
    placement: Placement,
    (first, between): (Duration, Duration),
    change: impl FnOnce(&mut InstanceSettings),
) -> (Stage, PluginHost) {
    let stage = Stage::with(&["rogue"]).instance("rogue", placement, |settings| {
        settings.timeouts.first_token = Some(first);
        settings.timeouts.inter_token = Some(between);
        change(settings);
    });
    let host = stage.ready().await;
    (stage, host)
}

async fn rogue(placement: Placement) -> (Stage, PluginHost) {
    rogue_within(placement, (LONG, LONG), |_| ()).await
}

/// Nothing but the end of this time ends a request that hangs.
fn end_soon(settings: &mut InstanceSettings) {
    settings.timeouts.cancel_grace = Some(Duration::from_millis(200));
}

async fn still_serves(host: &PluginHost) {
    until(host, "rogue", ModelState::serves).await;
    let (text, end) = ask(host, "rogue", "behave").await;
    assert_eq!((text.as_str(), end.is_ok()), ("ok", true));
}

async fn protocol_error(mode: &str, expected: &str) {
    for placement in BOTH {
        let (_stage, host) = rogue(placement).await;
        let (_, end) = ask(&host, "rogue", mode).await;
        let Err(CallError::Protocol(reason)) = end else { panic!("{placement:?}: {end:?}") };
        assert!(reason.contains(expected), "{reason}");
        still_serves(&host).await;
    }
}

async fn crash(mode: &str, expected: i32) {
    let (_stage, host) = rogue(Placement::Process).await;
    let (_, end) = ask(&host, "rogue", mode).await;
    assert_eq!(end, Err(CallError::Crashed { signal: Some(expected), delivered: false }));
    // It was tried twice, so it is poison now; others are served.
    assert_eq!(host.call("rogue", say(mode)).err(), Some(CallError::Poison));
    still_serves(&host).await;
    assert_eq!(host.model("rogue").unwrap().crashes, 2);
}

#[tokio::test]
async fn a_panic_becomes_an_error_of_the_request() {
    for placement in BOTH {
        let (_stage, host) = rogue(placement).await;
        let (_, end) = ask(&host, "rogue", "panic").await;
        assert!(
            matches!(&end, Err(CallError::Provider { message, .. }) if message.contains("panicked")),
            "{end:?}"
        );
        still_serves(&host).await;
    }
}

#[tokio::test]
async fn an_abort_is_retried_once_and_then_poison() {
    crash("abort", libc::SIGABRT).await;
}

#[tokio::test]
async fn a_segfault_is_retried_once_and_then_poison() {
    crash("segfault", libc::SIGSEGV).await;
}

#[tokio::test]
async fn an_abort_midway_is_not_retried() {
    let (_stage, host) = rogue(Placement::Process).await;
    let (text, end) = ask(&host, "rogue", "abort midway").await;
    assert_eq!(text, "half");
    let crashed = CallError::Crashed { signal: Some(libc::SIGABRT), delivered: true };
    assert_eq!(end, Err(crashed));
    still_serves(&host).await;
    assert_eq!(host.model("rogue").unwrap().crashes, 1);
}

#[tokio::test]
async fn a_hang_times_out_and_its_child_is_ended() {
    let (_stage, host) = rogue_within(Placement::Process, (SHORT, LONG), end_soon).await;
    let before = host.child_pid("rogue").unwrap();
    let (_, end) = ask(&host, "rogue", "hang").await;
    assert_eq!(end, Err(CallError::Timeout { which: TimeoutKind::FirstToken }));
    until_crashes(&host, "rogue", 1).await;
    still_serves(&host).await;
    assert_ne!(host.child_pid("rogue").unwrap(), before);
}

#[tokio::test]
async fn a_hang_in_process_times_out_and_the_rest_is_degraded() {
    let (_stage, host) = rogue_within(Placement::Inproc, (LONG, SHORT), end_soon).await;
    let (text, end) = ask(&host, "rogue", "hang midway").await;
    assert_eq!(text, "half");
    assert_eq!(end, Err(CallError::Timeout { which: TimeoutKind::BetweenTokens }));
    until(&host, "rogue", |state| *state == ModelState::Degraded).await;
    still_serves(&host).await;
}

#[tokio::test]
async fn a_flood_is_stopped_at_the_window_and_ends_when_the_reader_leaves() {
    for placement in BOTH {
        let bound = SHORT / 2;
        let (_stage, host) = rogue_within(placement, (LONG, bound), |_| ()).await;
        let stream = host.call("rogue", say("long flood")).unwrap();
        tokio::time::sleep(bound + bound / 2).await;
        assert_eq!(host.model("rogue").unwrap().in_flight, 1, "a slow reader is no hang");
        drop(stream);
        still_serves(&host).await;
        until_idle(&host, "rogue").await;
        let report = host.model("rogue").unwrap();
        assert_eq!(report.crashes, 0, "{placement:?}");
        assert_eq!(report.state, ModelState::Ready, "it was given up");
    }
}

/// Of the rogue's manifest, which names none.
const WINDOW: usize = 256;

#[tokio::test]
async fn what_a_plugin_emits_beyond_its_credit_is_not_passed_on() {
    for placement in BOTH {
        let (_stage, host) = rogue(placement).await;
        let stream = host.call("rogue", say("exceed")).unwrap();
        // Nobody reads until the plugin has said all it wanted to say.
        while host.model("rogue").unwrap().in_flight != 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let (text, end) = read(stream).await;
        let passed: Vec<_> = (0..WINDOW).map(|number| number.to_string()).collect();
        assert_eq!(text.split_whitespace().collect::<Vec<_>>(), passed, "{placement:?}");
        assert!(end.is_ok(), "{placement:?}: {end:?}");
        still_serves(&host).await;
    }
}

#[tokio::test]
async fn a_leak_of_a_request_does_not_stop_the_next() {
    for placement in BOTH {
        let (_stage, host) = rogue(placement).await;
        assert!(ask(&host, "rogue", "leak").await.1.is_ok());
        still_serves(&host).await;
    }
}

#[tokio::test]
async fn an_event_of_unknown_kind_ends_the_request() {
    protocol_error("bad kind", "unknown kind").await;
}

#[tokio::test]
async fn an_event_that_is_not_utf8_ends_the_request() {
    protocol_error("bad utf8", "UTF-8").await;
}

#[tokio::test]
async fn an_event_of_wrong_size_ends_the_request() {
    protocol_error("bad size", "struct_size").await;
}

#[tokio::test]
async fn an_event_that_is_too_large_ends_the_request() {
    protocol_error("huge event", "too large").await;
}

#[tokio::test]
async fn a_request_without_an_end_is_ended_by_the_host() {
    protocol_error("no end", "without an end").await;
}

#[tokio::test]
async fn a_token_or_an_end_after_the_end_is_dropped_and_counted() {
    for placement in BOTH {
        for mode in ["after end", "two ends"] {
            let (_stage, host) = rogue(placement).await;
            let (text, end) = ask(&host, "rogue", mode).await;
            assert_eq!((text.as_str(), end.is_ok()), ("", true));
            still_serves(&host).await;
            // The child reports it from another thread than the one that answers next.
            for _ in 0..500 {
                if host.model("rogue").unwrap().violations != 0 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert_eq!(host.model("rogue").unwrap().violations, 1, "{placement:?} {mode}");
        }
    }
}

#[tokio::test]
async fn a_negative_return_is_an_error_of_the_request() {
    for placement in BOTH {
        let (_stage, host) = rogue(placement).await;
        let mut stream = host.call("rogue", say("error code")).unwrap();
        assert!(matches!(stream.next().await, Some(Event::Error(CallError::Provider { .. }))));
        still_serves(&host).await;
    }
}
