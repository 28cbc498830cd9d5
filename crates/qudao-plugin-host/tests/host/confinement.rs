//! What a plugin gets when it reaches beyond its manifest, on the kernel that runs the test.

use qudao_plugin_host::{ModelState, Placement, PluginHost, Sandbox, protections};

use crate::{
    loading::rewrite,
    stage::{Stage, ask, until},
};

fn offers(what: &str) -> bool {
    protections().0.iter().any(|name| name.starts_with(what))
}

async fn reach(stage: &Stage) -> (PluginHost, Vec<(String, String)>) {
    let host = stage.ready().await;
    let (text, end) = ask(&host, "rogue", "reach").await;
    assert!(end.is_ok(), "{end:?}");
    let lines = text.lines().filter_map(|line| line.split_once(": "));
    let lines = lines.map(|(attempt, got)| (attempt.to_owned(), got.to_owned())).collect();
    (host, lines)
}

fn rogue() -> Stage {
    Stage::with(&["rogue"]).instance("rogue", Placement::Process, |_| ())
}

#[tokio::test]
async fn whatever_a_plugin_reaches_for_beyond_its_manifest_is_refused() {
    if !offers("landlock") || !offers("seccomp") {
        eprintln!("not shown: this kernel offers {:?}", protections().0);
        return;
    }
    let (host, lines) = reach(&rogue()).await;
    assert!(34 <= lines.len(), "{lines:?}");
    for (attempt, got) in &lines {
        println!("{attempt:<40} {got}");
    }
    let got: Vec<_> = lines.iter().filter(|(_, got)| !got.starts_with("denied")).collect();
    assert!(got.is_empty(), "{got:#?}");
    let held = host.model("rogue").unwrap().sandbox;
    for name in ["no_new_privs", "rlimits", "no_capabilities", "landlock:", "seccomp"] {
        assert!(held.iter().any(|held| held.starts_with(name)), "{held:?}");
    }
    assert_eq!(host.plugins()[0].sandbox, held);
}

#[tokio::test]
async fn without_the_sandbox_the_same_plugin_gets_what_it_reaches_for() {
    // Otherwise the test before this one would pass for another reason than the sandbox.
    let mut stage = rogue();
    stage.settings.sandbox = Sandbox::Off;
    let (host, lines) = reach(&stage).await;
    for attempt in ["read /etc/passwd while it is loaded", "write to /tmp", "listen by TCP"] {
        let got = lines.iter().find(|(name, _)| name == attempt).map(|(_, got)| got.as_str());
        assert_eq!(got, Some("got it"), "{attempt}");
    }
    assert_eq!(host.model("rogue").unwrap().sandbox, ["no_new_privs"]);
}

#[tokio::test]
async fn a_fork_bomb_makes_no_process() {
    if !offers("seccomp") {
        return;
    }
    let host = rogue().ready().await;
    let (text, _) = ask(&host, "rogue", "fork bomb").await;
    assert_eq!(text, "64 of 64 refused");
}

#[tokio::test]
async fn a_plugin_that_declares_the_network_gets_sockets_of_the_internet_and_no_others() {
    if !offers("landlock") || !offers("seccomp") {
        return;
    }
    let stage = rogue();
    rewrite(&stage, "rogue", |manifest| {
        manifest.permissions.network = vec!["api.example.com".to_owned()];
    });
    let (_host, lines) = reach(&stage).await;
    let got = |attempt: &str| {
        let line = lines.iter().find(|(name, _)| name == attempt);
        line.map(|(_, got)| got.clone()).unwrap_or_default()
    };
    assert!(got("connect by TCP").starts_with("reached it"), "{lines:?}");
    assert_eq!(got("send by UDP"), "got it");
    let refused = ["connect to a Unix socket", "open a raw packet socket", "read /etc/passwd"];
    for attempt in refused.into_iter().chain(["fork", "write to /tmp", "trace the platform"]) {
        assert!(got(attempt).starts_with("denied"), "{attempt}: {}", got(attempt));
    }
}

#[tokio::test]
async fn where_confinement_is_required_a_plugin_in_the_platforms_process_is_refused() {
    let mut stage = Stage::with(&["echo"]).instance("echo", Placement::Inproc, |_| ());
    stage.settings.sandbox = Sandbox::Required;
    let host = stage.start().await;
    until(&host, "echo", |state| matches!(state, ModelState::Failed { .. })).await;
    let state = format!("{:?}", host.model("echo").unwrap().state);
    assert!(state.contains("`inproc` is not confined"), "{state}");
}

#[tokio::test]
async fn where_confinement_is_required_a_child_starts_only_with_all_of_it() {
    let mut stage = Stage::with(&["echo"]).instance("echo", Placement::Process, |_| ());
    stage.settings.sandbox = Sandbox::Required;
    let host = stage.start().await;
    if offers("landlock") && offers("seccomp") {
        until(&host, "echo", ModelState::serves).await;
        return;
    }
    until(&host, "echo", |state| matches!(state, ModelState::Failed { .. })).await;
    let state = format!("{:?}", host.model("echo").unwrap().state);
    assert!(state.contains("cannot be had"), "{state}");
}
