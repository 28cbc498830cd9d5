//! Reloads that go wrong, `drain_first`, and what a plugin hears of its end.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use qudao_plugin_api::manifest::{Strategy, sha256_hex};
use qudao_plugin_host::{CallError, Event, HostError, ModelState, Placement, PluginHost, Sandbox};

use crate::{
    loading::rewrite,
    stage::{Stage, ask, built, read, say, until, until_crashes},
};

const BOTH: [Placement; 2] = [Placement::Process, Placement::Inproc];

fn rogue(placement: Placement, strategy: Strategy) -> Stage {
    let mut stage = Stage::with(&["rogue"]);
    // It writes its notes into a file, which a confined plugin may not.
    stage.settings.sandbox = Sandbox::Off;
    rewrite(&stage, "rogue", |manifest| manifest.upgrade.strategy = strategy);
    let notes = stage.folder.path().join("notes");
    stage.instance("rogue", placement, |settings| {
        settings.config = serde_json::json!({ "notes": notes });
    })
}

fn notes(stage: &Stage) -> Vec<String> {
    let text = fs::read_to_string(stage.folder.path().join("notes")).unwrap_or_default();
    text.lines().map(ToOwned::to_owned).collect()
}

/// Puts a library on disk that loads and then refuses the instance's configuration.
fn spoil(stage: &Stage) {
    let bytes = fs::read(built().join("libqudao_plugin_echo.so")).unwrap();
    fs::write(stage.plugin("rogue").join("lib/libqudao_plugin_rogue.so"), &bytes).unwrap();
    rewrite(stage, "rogue", |manifest| manifest.artifacts[0].sha256 = sha256_hex(&bytes));
}

async fn serves_as_before(host: &PluginHost) {
    // Echo would say "behave".
    assert_eq!(ask(host, "rogue", "behave").await.0, "ok");
}

#[tokio::test]
async fn a_reload_whose_new_code_does_not_start_changes_nothing() {
    for placement in BOTH {
        let stage = rogue(placement, Strategy::SideBySide);
        let host = stage.ready().await;
        spoil(&stage);
        let error = host.reload("rogue").await.unwrap_err();
        assert!(matches!(&error, HostError::Reload { .. }), "{error}");
        assert!(error.to_string().contains("unknown field"), "{error}");
        assert_eq!(host.model("rogue").unwrap().generation, 1);
        assert_eq!(host.model("rogue").unwrap().state, ModelState::Ready);
        serves_as_before(&host).await;
        if placement == Placement::Process {
            // A respawn takes the bytes that served, and not those on disk.
            let _ = ask(&host, "rogue", "abort midway").await;
            until_crashes(&host, "rogue", 1).await;
            until(&host, "rogue", ModelState::serves).await;
            serves_as_before(&host).await;
        }
    }
}

#[tokio::test]
async fn a_drain_first_reload_whose_new_code_does_not_start_restarts_the_old_code() {
    for placement in BOTH {
        let stage = rogue(placement, Strategy::DrainFirst);
        let host = stage.ready().await;
        spoil(&stage);
        let error = host.reload("rogue").await.unwrap_err().to_string();
        assert!(error.contains("unknown field"), "{error}");
        assert_eq!(host.model("rogue").unwrap().state, ModelState::Ready, "{placement:?}");
        serves_as_before(&host).await;
    }
}

#[tokio::test]
async fn a_drain_first_reload_lets_a_call_finish_before_the_new_code_starts() {
    for placement in BOTH {
        let stage = rogue(placement, Strategy::DrainFirst);
        let host = stage.ready().await;
        let call = host.call("rogue", say("wait")).unwrap();
        let reports = host.reload("rogue").await.unwrap();
        assert_eq!((reports[0].from, reports[0].to), (1, 2));
        assert_eq!(read(call).await.0, "ok");
        serves_as_before(&host).await;
        let expected: &[&str] = match placement {
            Placement::Process => &["create", "drain", "create"],
            Placement::Inproc => &["create", "drain", "destroy", "create"],
        };
        assert_eq!(notes(&stage), expected);
    }
}

#[tokio::test]
async fn an_instance_in_this_process_is_drained_and_destroyed_exactly_once() {
    let stage = rogue(Placement::Inproc, Strategy::SideBySide);
    let host = stage.ready().await;
    let call = host.call("rogue", say("wait")).unwrap();
    host.reload("rogue").await.unwrap();
    assert_eq!(read(call).await.0, "ok");
    assert_eq!(notes(&stage), ["create", "create", "drain", "destroy"]);
    let call = host.call("rogue", say("wait")).unwrap();
    host.shutdown(Duration::from_secs(5)).await;
    assert_eq!(read(call).await.0, "ok");
    drop(host);
    let ends = ["drain", "destroy"];
    assert_eq!(notes(&stage)[4..], ends);
}

#[tokio::test]
async fn a_child_hears_that_it_is_drained_before_a_shutdown() {
    let stage = rogue(Placement::Process, Strategy::SideBySide);
    let host = stage.ready().await;
    let call = host.call("rogue", say("wait")).unwrap();
    host.shutdown(Duration::from_secs(5)).await;
    assert_eq!(read(call).await.0, "ok");
    assert_eq!(notes(&stage), ["create", "drain"]);
}

#[tokio::test]
async fn a_request_that_hangs_keeps_its_instance_from_being_destroyed_and_not_the_shutdown() {
    let mut stage = rogue(Placement::Inproc, Strategy::SideBySide);
    stage.settings.instances[0].timeouts.cancel_grace = Some(Duration::from_millis(200));
    let host = stage.ready().await;
    let mut call = host.call("rogue", say("hang midway")).unwrap();
    assert!(matches!(call.next().await, Some(Event::Token { .. })), "it is inside");
    let started = Instant::now();
    host.shutdown(Duration::from_millis(100)).await;
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert_eq!(read(call).await.1, Err(CallError::Cancelled));
    assert!(!notes(&stage).contains(&"destroy".to_owned()));
}

#[tokio::test]
async fn loading_that_takes_too_long_ends_the_child_and_says_so() {
    let stage = Stage::with(&["rogue"]).instance("rogue", Placement::Process, |settings| {
        settings.config = serde_json::json!({ "create": "hang" });
        settings.timeouts.load = Some(Duration::from_millis(200));
    });
    let host = stage.start().await;
    until(&host, "rogue", |state| {
        matches!(state, ModelState::Failed { reason } if reason.contains("longer than 200ms"))
    })
    .await;
    assert_eq!(host.child_pid("rogue"), None);
}

fn add_better_artifact_that_refuses(stage: &Stage, folder: &Path) {
    let bytes = fs::read(built().join("libqudao_plugin_echo.so")).unwrap();
    fs::write(folder.join("lib/better.so"), &bytes).unwrap();
    rewrite(stage, "rogue", |manifest| {
        let mut better = manifest.artifacts[0].clone();
        better.variant = "better".to_owned();
        better.path = "lib/better.so".to_owned();
        better.sha256 = sha256_hex(&bytes);
        better.score = 100;
        manifest.artifacts.push(better);
    });
}

#[tokio::test]
async fn an_artifact_that_loads_and_then_does_not_start_gives_way_to_the_next() {
    for placement in BOTH {
        let stage = rogue(placement, Strategy::SideBySide);
        add_better_artifact_that_refuses(&stage, &stage.plugin("rogue"));
        let host = stage.ready().await;
        assert_eq!(host.model("rogue").unwrap().variant, "cpu");
        serves_as_before(&host).await;
    }
}
