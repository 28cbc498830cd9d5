use std::{
    os::unix::fs::symlink,
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use qudao_plugin_host::{CallError, Event, ModelState, Placement, PluginHost, PluginState};

use crate::stage::{Stage, ask, read, say, until, until_crashes};

fn kill(host: &PluginHost, model: &str) {
    let pid = host.child_pid(model).unwrap().to_string();
    assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
}

fn slow_echo(placement: Placement, count: usize) -> Stage {
    Stage::with(&["echo"]).instance("echo", placement, |settings| {
        settings.config = serde_json::json!({ "delay_ms": 5, "count": count });
    })
}

#[tokio::test]
async fn a_child_killed_before_the_first_token_answers_after_the_respawn() {
    let stage = Stage::with(&["echo"]).instance("echo", Placement::Process, |settings| {
        settings.config = serde_json::json!({ "delay_ms": 3_000 });
    });
    let host = stage.ready().await;
    let stream = host.call("echo", say("hello")).unwrap();
    kill(&host, "echo");
    assert_eq!(read(stream).await, ("hello".to_owned(), Ok(1)));
    assert_eq!(host.model("echo").unwrap().generation, 2);
}

#[tokio::test]
async fn a_request_that_crashes_the_child_takes_no_other_with_it() {
    let stage = Stage::with_flavour("asynchronous");
    let stage = stage.instance("asynchronous", Placement::Process, |_| ());
    let host = stage.ready().await;
    // The culprit comes second, so that some are tried again before it and some after.
    let call = |text: &str| host.call("asynchronous", say(text)).unwrap();
    let (first, culprit) = (call("wait 400"), call("abort 150"));
    let others = [first, call("wait 401"), call("wait 402")];
    for (index, stream) in others.into_iter().enumerate() {
        let (text, end) = read(stream).await;
        assert_eq!((text.as_str(), end.is_ok()), ("ok", true), "{index}: {end:?}");
    }
    let crashed = CallError::Crashed { signal: Some(libc::SIGABRT), delivered: false };
    assert_eq!(read(culprit).await.1, Err(crashed));
    let again = host.call("asynchronous", say("abort 150")).err();
    assert_eq!(again, Some(CallError::Poison));
    until(&host, "asynchronous", ModelState::serves).await;
    assert!(ask(&host, "asynchronous", "wait 400").await.1.is_ok());
    // Once among the others, where nobody was blamed, and twice on its own.
    assert_eq!(host.model("asynchronous").unwrap().crashes, 3);
}

#[tokio::test]
async fn a_request_that_segfaults_the_child_takes_no_other_with_it() {
    let stage = Stage::with(&["rogue"]).instance("rogue", Placement::Process, |settings| {
        settings.max_concurrency = 8;
    });
    let host = stage.ready().await;
    let call = |text: &str| host.call("rogue", say(text)).unwrap();
    let (first, culprit) = (call("wait 1"), call("late segfault"));
    let others = [first, call("wait 2"), call("wait 3")];
    for (index, stream) in others.into_iter().enumerate() {
        let (text, end) = read(stream).await;
        assert_eq!((text.as_str(), end.is_ok()), ("ok", true), "{index}: {end:?}");
    }
    let crashed = CallError::Crashed { signal: Some(libc::SIGSEGV), delivered: false };
    assert_eq!(read(culprit).await.1, Err(crashed));
    assert_eq!(host.call("rogue", say("late segfault")).err(), Some(CallError::Poison));
}

#[tokio::test]
async fn a_child_killed_midway_is_a_clear_failure_and_the_next_call_is_served() {
    let stage = slow_echo(Placement::Process, 20);
    let host = stage.ready().await;
    let mut stream = host.call("echo", say("a b")).unwrap();
    assert!(matches!(stream.next().await, Some(Event::Token { .. })));
    kill(&host, "echo");
    let (_, end) = read(stream).await;
    assert_eq!(end, Err(CallError::Crashed { signal: Some(libc::SIGKILL), delivered: true }));
    until(&host, "echo", ModelState::serves).await;
    assert!(ask(&host, "echo", "again").await.1.is_ok());
}

#[tokio::test]
async fn a_cancelled_call_ends_soon_in_both_placements() {
    for placement in [Placement::Process, Placement::Inproc] {
        // All of it would last longer than it is waited for, and so would giving the plugin up.
        let soon = Duration::from_secs(20);
        let mut stage = slow_echo(placement, 2_000);
        stage.settings.instances[0].timeouts.cancel_grace = Some(2 * soon);
        let host = stage.ready().await;
        let mut stream = host.call("echo", say("a b c d e f g h")).unwrap();
        assert!(matches!(stream.next().await, Some(Event::Token { .. })));
        stream.cancel();
        let ended = tokio::time::timeout(soon, read(stream)).await;
        assert!(ended.is_ok(), "{placement:?}");
        assert_eq!(host.model("echo").unwrap().crashes, 0);
    }
}

#[tokio::test]
async fn more_calls_than_allowed_are_refused_and_served_again_later() {
    let stage = Stage::with_flavour("asynchronous");
    let stage = stage.instance("asynchronous", Placement::Process, |settings| {
        settings.max_concurrency = 1;
    });
    let host = stage.ready().await;
    let first = host.call("asynchronous", say("wait 2000")).unwrap();
    assert_eq!(host.call("asynchronous", say("two")).err(), Some(CallError::Overloaded));
    assert!(read(first).await.1.is_ok());
    assert!(ask(&host, "asynchronous", "three").await.1.is_ok());
}

#[tokio::test]
async fn five_crashes_in_a_minute_quarantine_until_an_operator_lifts_it() {
    let stage = Stage::with(&["echo"]).instance("echo", Placement::Process, |_| ());
    let host = stage.ready().await;
    for crash in 1..=5 {
        until(&host, "echo", ModelState::serves).await;
        kill(&host, "echo");
        until_crashes(&host, "echo", crash).await;
    }
    until(&host, "echo", |state| matches!(state, ModelState::Quarantined { .. })).await;
    let refused = host.call("echo", say("hello")).err();
    assert!(matches!(refused, Some(CallError::NotReady { .. })));
    // A restart of the platform does not forget it.
    let restarted = stage.start().await;
    assert!(matches!(restarted.plugins()[0].state, PluginState::Quarantined { .. }));
    assert!(matches!(restarted.model("echo").unwrap().state, ModelState::Quarantined { .. }));
    restarted.lift_quarantine("echo").unwrap();
    until(&restarted, "echo", ModelState::serves).await;
    assert!(ask(&restarted, "echo", "hello").await.1.is_ok());
}

/// A stage whose host binary can be taken away, so that a start fails.
fn unsteady() -> (Stage, PathBuf) {
    let mut stage = Stage::with(&["echo"]).instance("echo", Placement::Process, |_| ());
    let binary = stage.folder.path().join("host");
    symlink(&stage.settings.host_binary, &binary).unwrap();
    stage.settings.host_binary.clone_from(&binary);
    (stage, binary)
}

#[tokio::test]
async fn a_start_that_fails_after_a_crash_is_tried_again() {
    let (stage, binary) = unsteady();
    let target = std::fs::read_link(&binary).unwrap();
    let host = stage.ready().await;
    std::fs::remove_file(&binary).unwrap();
    kill(&host, "echo");
    until_crashes(&host, "echo", 2).await;
    let loading = |state: &ModelState| matches!(state, ModelState::Loading { .. });
    assert!(loading(&host.model("echo").unwrap().state));
    symlink(target, &binary).unwrap();
    until(&host, "echo", ModelState::serves).await;
    assert!(ask(&host, "echo", "hello").await.1.is_ok());
}

#[tokio::test]
async fn starts_that_keep_failing_after_a_crash_end_in_quarantine() {
    let (stage, binary) = unsteady();
    let host = stage.ready().await;
    std::fs::remove_file(&binary).unwrap();
    kill(&host, "echo");
    until(&host, "echo", |state| matches!(state, ModelState::Quarantined { .. })).await;
    assert_eq!(host.model("echo").unwrap().crashes, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_under_load_fail_no_call() {
    for placement in [Placement::Process, Placement::Inproc] {
        let stage = slow_echo(placement, 20);
        let host = stage.ready().await;
        let stop = Arc::new(AtomicBool::new(false));
        let callers: Vec<_> = (0..4)
            .map(|_| {
                let (host, stop) = (host.clone(), Arc::clone(&stop));
                #[expect(clippy::disallowed_methods, reason = "the test joins it")]
                tokio::spawn(async move {
                    let mut calls = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let (_, end) = ask(&host, "echo", "a b").await;
                        assert_eq!(end, Ok(40));
                        calls += 1;
                    }
                    calls
                })
            })
            .collect();
        for generation in 2..=4 {
            let reports = host.reload("echo").await.unwrap();
            assert_eq!((reports[0].from, reports[0].to), (generation - 1, generation));
        }
        stop.store(true, Ordering::Relaxed);
        for caller in callers {
            assert!(0 < caller.await.unwrap());
        }
        assert_eq!(host.model("echo").unwrap().crashes, 0);
    }
}

#[tokio::test]
async fn a_reload_of_a_broken_library_leaves_the_old_generation_serving() {
    let stage = Stage::with(&["echo"]).instance("echo", Placement::Process, |_| ());
    let host = stage.ready().await;
    std::fs::write(stage.plugin("echo").join("lib/libqudao_plugin_echo.so"), "broken").unwrap();
    let error = host.reload("echo").await.unwrap_err().to_string();
    assert!(error.contains("sha256"), "{error}");
    assert!(ask(&host, "echo", "hello").await.1.is_ok());
    assert_eq!(host.model("echo").unwrap().generation, 1);
}

#[tokio::test]
async fn shutdown_waits_for_a_call_and_ends_the_child() {
    let stage = slow_echo(Placement::Process, 20);
    let host = stage.ready().await;
    let pid = host.child_pid("echo").unwrap();
    let stream = host.call("echo", say("a")).unwrap();
    host.shutdown(Duration::from_secs(5)).await;
    assert_eq!(read(stream).await.1, Ok(20));
    for _ in 0..500 {
        if !std::path::Path::new(&format!("/proc/{pid}")).exists() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the child lives on");
}
