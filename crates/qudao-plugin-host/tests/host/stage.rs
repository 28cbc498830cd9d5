//! Builds the plugins once and lays them out, signed, in a folder per test.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Duration,
};

use qudao_plugin_api::{
    manifest::public_key,
    wire::{ChatMessage, ChatRequest, Role},
};
use qudao_plugin_host::{
    Call, CallError, Event, EventStream, HostSettings, InstanceSettings, ModelKind, ModelState,
    Placement, PluginHost, Sandbox, pack,
};
use tempfile::TempDir;

pub(crate) const SECRET: [u8; 32] = [7; 32];

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The folder with the built libraries.
pub(crate) fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let binary = Path::new(env!("CARGO_BIN_EXE_qudao-plugin-host"));
        let target = binary.parent().unwrap().parent().unwrap();
        build(target, &["-p", "qudao-plugin-echo", "-p", "qudao-plugin-rogue"]);
        target.join("debug")
    })
}

/// Builds what is loaded, unless `scripts/test.sh` has: in another selection of packages than its own
/// cargo would compile half of the libraries anew.
fn build(target: &Path, words: &[&str]) {
    let is_built = std::env::var_os("QUDAO_BUILT").is_some();
    if is_built {
        return;
    }
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet"]).args(words).arg("--target-dir").arg(target);
    assert!(cargo.current_dir(root()).status().unwrap().success());
}

pub(crate) struct Stage {
    pub(crate) folder: TempDir,
    pub(crate) settings: HostSettings,
}

impl Stage {
    /// A folder with the named plugins, packed and signed.
    pub(crate) fn with(plugins: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dist = folder.path().join("plugins");
        for plugin in plugins {
            let template = root().join("plugins").join(plugin).join("plugin.toml");
            pack(&template, built(), &dist, &SECRET).unwrap();
        }
        let settings = HostSettings {
            plugin_dirs: vec![dist],
            state_dir: folder.path().join("state"),
            host_binary: env!("CARGO_BIN_EXE_qudao-plugin-host").into(),
            trusted_keys: vec![public_key(&SECRET)],
            allow_unsigned: false,
            sandbox: Sandbox::default(),
            allow_downgrade: Vec::new(),
            instances: Vec::new(),
        };
        Self { folder, settings }
    }

    /// As [`Stage::with`], with one of the example plugins of `tests/plugins`.
    pub(crate) fn with_flavour(flavour: &str) -> Self {
        static BUILT: OnceLock<()> = OnceLock::new();
        let target = built();
        let examples = ["-p", "qudao-plugin-host", "--examples"];
        BUILT.get_or_init(|| build(target.parent().unwrap(), &examples));
        let stage = Self::with(&[]);
        let template = stage.folder.path().join("plugin.toml");
        let text = format!(
            "schema = 1\n[plugin]\nid = \"{flavour}\"\nversion = \"1\"\nabi = \"1.1\"\n\
             kinds = [\"chat\"]\n[permissions]\nnetwork = [\"the test's server\"]\n[[artifact]]\ntarget = \"any\"\nvariant = \"cpu\"\n\
             path = \"lib/lib{flavour}.so\"\n"
        );
        std::fs::write(&template, text).unwrap();
        let dist = stage.folder.path().join("plugins");
        pack(&template, &target.join("examples"), &dist, &SECRET).unwrap();
        stage
    }

    pub(crate) fn plugin(&self, id: &str) -> PathBuf {
        self.folder.path().join("plugins").join(id)
    }

    /// An instance named like its plugin and its model. On a busy machine a plugin may look late at
    /// a cancellation; tests of one that never looks give it less time.
    pub(crate) fn instance(
        mut self,
        plugin: &str,
        placement: Placement,
        change: impl FnOnce(&mut InstanceSettings),
    ) -> Self {
        let mut settings = InstanceSettings::new(plugin, plugin, plugin);
        settings.placement = placement;
        settings.timeouts.cancel_grace = Some(Duration::from_secs(5));
        change(&mut settings);
        self.settings.instances.push(settings);
        self
    }

    pub(crate) async fn start(&self) -> PluginHost {
        PluginHost::start(self.settings.clone()).await
    }

    /// Started, with every model ready.
    pub(crate) async fn ready(&self) -> PluginHost {
        let host = self.start().await;
        for instance in &self.settings.instances {
            for model in &instance.models {
                until(&host, &model.name, ModelState::serves).await;
            }
        }
        host
    }
}

/// Waits until the model's state is as wanted.
pub(crate) async fn until(host: &PluginHost, model: &str, wanted: impl Fn(&ModelState) -> bool) {
    let mut state = None;
    for _ in 0..2_000 {
        state = host.model(model).map(|report| report.state);
        if state.as_ref().is_some_and(&wanted) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{model} is still {state:?}");
}

/// Waits until the model's child has crashed so often; its absence may be too short to be seen.
pub(crate) async fn until_crashes(host: &PluginHost, model: &str, wanted: u64) {
    for _ in 0..2_000 {
        if wanted <= host.model(model).unwrap().crashes {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{model} has not crashed {wanted} times");
}

/// Waits until nobody asks the model anything.
pub(crate) async fn until_idle(host: &PluginHost, model: &str) {
    for _ in 0..2_000 {
        if host.model(model).unwrap().in_flight == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{model} is still asked");
}

pub(crate) fn say(text: &str) -> Call {
    let request = ChatRequest::new("any", vec![ChatMessage::text(Role::User, text)]);
    Call {
        kind: ModelKind::Chat,
        payload: serde_json::to_vec(&request).unwrap(),
        timeout: Duration::from_secs(20),
        trace: qudao_plugin_host::Trace::NONE,
    }
}

/// The text of an answer and how it ended; checks that it ends exactly once.
pub(crate) async fn read(mut stream: EventStream) -> (String, Result<u32, CallError>) {
    let mut text = String::new();
    loop {
        match stream.next().await.expect("a stream ends with End or Error") {
            Event::Token { text: token, .. } => text.push_str(&token),
            Event::End { usage, .. } => {
                assert_eq!(stream.next().await, None);
                return (text, Ok(usage.output_tokens));
            }
            Event::Error(error) => {
                assert_eq!(stream.next().await, None);
                return (text, Err(error));
            }
            _ => {}
        }
    }
}

pub(crate) async fn ask(
    host: &PluginHost,
    model: &str,
    text: &str,
) -> (String, Result<u32, CallError>) {
    read(host.call(model, say(text)).unwrap()).await
}
