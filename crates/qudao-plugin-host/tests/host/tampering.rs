//! What somebody who can write to the folder of a plugin tries, and what it gets. The table is
//! printed: `cargo xtask check plugins`.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use qudao_plugin_api::manifest::{
    ConfigSection, MANIFEST_FILE, SIGNATURE_FILE, SelfTest, public_key, sha256_hex, sign,
};
use qudao_plugin_host::{ModelState, Placement, PluginHost, PluginState, signing_key};

use crate::{
    loading::rewrite,
    stage::{SECRET, Stage, ask, built, root, until, until_crashes},
};

/// A name, what is done, and a part of the reason for which it is refused.
type Attempt = (&'static str, fn(&mut Stage), &'static str);

const ATTEMPTS: &[Attempt] = &[
    (
        "the manifest is edited after it was signed",
        |stage| append(&manifest(stage), b"\n[limits]\nmemory_mb = 0\n"),
        "signature does not match",
    ),
    (
        "the signature is taken away",
        |stage| fs::remove_file(signature(stage)).unwrap(),
        "no signature",
    ),
    (
        "a stranger signs",
        |stage| {
            let signed = sign(&fs::read(manifest(stage)).unwrap(), &[9; 32]);
            fs::write(signature(stage), signed).unwrap();
        },
        "not a trusted key",
    ),
    (
        "a stranger signs in the name of a trusted key",
        |stage| {
            let signed = sign(&fs::read(manifest(stage)).unwrap(), &[9; 32]);
            let (_, signed) = signed.split_once(' ').unwrap();
            let name = hex::encode(public_key(&SECRET));
            fs::write(signature(stage), format!("{name} {signed}")).unwrap();
        },
        "signature does not match",
    ),
    (
        "a signature that holds for anything, by a weak key that was trusted",
        |stage| {
            // The neutral point: without the strict rules this verifies for every message.
            let mut weak = [0; 32];
            weak[0] = 1;
            stage.settings.trusted_keys.push(weak);
            let forged = format!("{0} {0}{1}", hex::encode(weak), "0".repeat(64));
            fs::write(signature(stage), forged).unwrap();
        },
        "signature does not match",
    ),
    (
        "the signature of another plugin",
        |stage| fs::write(signature(stage), sign(b"schema = 1", &SECRET)).unwrap(),
        "signature does not match",
    ),
    (
        "a signature that is none",
        |stage| fs::write(signature(stage), "\u{0}\u{1}trust me").unwrap(),
        "malformed",
    ),
    ("a pipe in place of the signature", |stage| pipe(&signature(stage)), "not a regular file"),
    (
        "an endless device in place of the signature",
        |stage| link(Path::new("/dev/zero"), &signature(stage)),
        "out of the plugin's folder",
    ),
    (
        "a manifest that lies elsewhere",
        |stage| {
            let elsewhere = stage.folder.path().join("elsewhere.toml");
            fs::rename(manifest(stage), &elsewhere).unwrap();
            link(&elsewhere, &manifest(stage));
        },
        "out of the plugin's folder",
    ),
    (
        "a manifest of two megabytes",
        |stage| append(&manifest(stage), &vec![b'#'; 2 << 20]),
        "more than",
    ),
    (
        "a signed manifest that is no text",
        |stage| resign(stage, |text| text.extend_from_slice(b"# \xff\xfe\n")),
        "not UTF-8",
    ),
    (
        "a signed manifest with the library of another folder",
        |stage| {
            rewrite(stage, "echo", |m| m.artifacts[0].path = "../../etc/libc.so.6".to_owned());
        },
        "stay inside the plugin's folder",
    ),
    (
        "a signed manifest with a library of the system",
        |stage| rewrite(stage, "echo", |m| m.artifacts[0].path = "/lib/libc.so.6".to_owned()),
        "stay inside the plugin's folder",
    ),
    (
        "a signed manifest with a schema of another folder",
        |stage| {
            rewrite(stage, "echo", |m| {
                m.config = Some(ConfigSection { schema: "../../../etc/passwd".to_owned() });
            });
        },
        "config.schema",
    ),
    (
        "a signed manifest whose schema is none",
        |stage| with_schema(stage, "{ \"type\": \"tea\" }"),
        "schema.json is no schema of settings",
    ),
    (
        "settings that the plugin does not take",
        |stage| {
            with_schema(stage, "{ \"properties\": { \"delay_ms\": { \"type\": \"integer\" } } }");
            stage.settings.instances[0].config["delay_ms"] = "soon".into();
        },
        "do not fit the plugin: config.delay_ms",
    ),
    (
        "a signed manifest with four billion threads",
        |stage| rewrite(stage, "echo", |m| m.runtime.max_concurrency = u32::MAX),
        "max_concurrency",
    ),
    (
        "a signed manifest with times beyond the clock",
        |stage| {
            rewrite(stage, "echo", |m| {
                m.selftest = Some(SelfTest { message: "x".to_owned(), timeout_ms: u64::MAX });
            });
        },
        "at most a week",
    ),
    ("one byte of the library is changed", |stage| flip(&library(stage)), "sha256"),
    (
        "the library ends early",
        |stage| {
            let bytes = fs::read(library(stage)).unwrap();
            fs::write(library(stage), &bytes[..bytes.len() / 2]).unwrap();
        },
        "sha256",
    ),
    (
        "the library of another plugin",
        |stage| {
            let other = built().join("libqudao_plugin_rogue.so");
            fs::write(library(stage), fs::read(other).unwrap()).unwrap();
        },
        "sha256",
    ),
    ("a pipe in place of the library", |stage| pipe(&library(stage)), "not a regular file"),
    (
        "a link out of the folder in place of the library",
        |stage| link(&built().join("libqudao_plugin_echo.so"), &library(stage)),
        "out of the plugin's folder",
    ),
    (
        "a link out of the folder in place of the library's folder",
        |stage| {
            let (inside, outside) =
                (stage.plugin("echo").join("lib"), stage.folder.path().join("lib"));
            fs::rename(&inside, &outside).unwrap();
            symlink(&outside, &inside).unwrap();
        },
        "out of the plugin's folder",
    ),
    (
        "a signed library that brings others from a relative place",
        |stage| relink(stage, &["-Wl,-rpath,lib"]),
        "brings libraries of its own",
    ),
    (
        "a signed library that brings others from where everybody can write",
        |stage| {
            let open = stage.folder.path().join("open");
            fs::create_dir(&open).unwrap();
            fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
            relink(stage, &[&format!("-Wl,-rpath,{}", open.display())]);
        },
        "can be written by everybody",
    ),
    (
        "unsigned, where that is allowed, and everybody can write there",
        |stage| {
            stage.settings.allow_unsigned = true;
            fs::remove_file(signature(stage)).unwrap();
            let mode = fs::Permissions::from_mode(0o777);
            fs::set_permissions(stage.plugin("echo"), mode).unwrap();
        },
        "can be written by everybody",
    ),
    (
        "a second folder with a plugin of the same id",
        |stage| {
            let second = stage.folder.path().join("plugins/another");
            let mut copy = Command::new("cp");
            copy.arg("-r").arg(stage.plugin("echo")).arg(second);
            assert!(copy.status().unwrap().success());
        },
        "a plugin of the same id",
    ),
];

fn manifest(stage: &Stage) -> PathBuf {
    stage.plugin("echo").join(MANIFEST_FILE)
}

fn signature(stage: &Stage) -> PathBuf {
    stage.plugin("echo").join(SIGNATURE_FILE)
}

fn library(stage: &Stage) -> PathBuf {
    stage.plugin("echo").join("lib/libqudao_plugin_echo.so")
}

fn append(path: &Path, bytes: &[u8]) {
    let mut all = fs::read(path).unwrap();
    all.extend_from_slice(bytes);
    fs::write(path, all).unwrap();
}

fn resign(stage: &Stage, change: impl FnOnce(&mut Vec<u8>)) {
    let mut text = fs::read(manifest(stage)).unwrap();
    change(&mut text);
    fs::write(signature(stage), sign(&text, &SECRET)).unwrap();
    fs::write(manifest(stage), text).unwrap();
}

fn with_schema(stage: &Stage, schema: &str) {
    fs::write(stage.plugin("echo").join("schema.json"), schema).unwrap();
    rewrite(stage, "echo", |m| {
        m.config = Some(ConfigSection { schema: "schema.json".to_owned() });
    });
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(path, bytes).unwrap();
}

fn pipe(path: &Path) {
    fs::remove_file(path).unwrap();
    let made = Command::new("mkfifo").arg(path).status().unwrap();
    assert!(made.success());
}

fn link(to: &Path, path: &Path) {
    let _ = fs::remove_file(path);
    symlink(to, path).unwrap();
}

/// Puts a signed library there that was linked with these words.
fn relink(stage: &Stage, words: &[&str]) {
    let source = stage.folder.path().join("linked.c");
    fs::write(
        &source,
        "#include \"qudao_plugin.h\"\n\
         QD_EXPORT const QdAbiInfo QUDAO_PLUGIN_ABI = {QD_MAGIC, 56, 1, 0, QD_F_BLOCKING, 0, \"C\"};\n\
         QD_EXPORT const QdPluginApi *qudao_plugin_entry(uint32_t a, uint32_t b)\
         { (void)a; (void)b; return 0; }\n",
    )
    .unwrap();
    let mut gcc = Command::new("gcc");
    gcc.args(["-shared", "-fPIC", "-I"]).arg(root().join("crates/qudao-plugin-api/include"));
    let made = gcc.arg(&source).arg("-o").arg(library(stage)).args(words).status().unwrap();
    assert!(made.success());
    let hash = sha256_hex(&fs::read(library(stage)).unwrap());
    rewrite(stage, "echo", |manifest| manifest.artifacts[0].sha256 = hash);
}

/// Why a plugin or, if it is accepted, its model is refused; `None` when it serves.
async fn refusal(host: &PluginHost) -> Option<String> {
    for plugin in host.plugins() {
        if let PluginState::Refused { reason } = plugin.state {
            return Some(reason);
        }
    }
    until(host, "echo", |state| !matches!(state, ModelState::Loading { .. })).await;
    match host.model("echo").unwrap().state {
        ModelState::Failed { reason } => Some(reason),
        _ => None,
    }
}

fn echo() -> Stage {
    Stage::with(&["echo"]).instance("echo", Placement::Process, |_| ())
}

#[tokio::test]
async fn tampering_is_refused_each_time_with_its_reason() {
    for (attempt, tamper, expected) in ATTEMPTS {
        let mut stage = echo();
        tamper(&mut stage);
        let got = refusal(&stage.start().await).await;
        let shown = stage.folder.path().display().to_string();
        let reason = got.as_deref().unwrap_or("SERVES").replace(&shown, "…");
        let reason: String = reason.chars().take(130).collect();
        println!("{attempt:<70} {reason}");
        assert!(got.is_some_and(|got| got.contains(expected)), "{attempt}: {reason}");
    }
}

#[tokio::test]
async fn an_older_version_and_one_that_lost_its_signature_are_refused_until_the_operator_agrees() {
    let mut stage = echo();
    rewrite(&stage, "echo", |manifest| manifest.plugin.version = "1.10.0".to_owned());
    assert_eq!(refusal(&stage.start().await).await, None);
    rewrite(&stage, "echo", |manifest| manifest.plugin.version = "1.9.0".to_owned());
    let reason = refusal(&stage.start().await).await.unwrap();
    println!("{:<70} {reason}", "an older version that was signed in its time");
    assert!(reason.contains("1.9.0 is older than 1.10.0"), "{reason}");
    stage.settings.allow_unsigned = true;
    fs::remove_file(signature(&stage)).unwrap();
    let reason = refusal(&stage.start().await).await.unwrap();
    println!("{:<70} {reason}", "a plugin that was signed once, without its signature");
    assert!(reason.contains("was signed by"), "{reason}");
    stage.settings.allow_downgrade = vec!["echo".to_owned()];
    assert_eq!(refusal(&stage.start().await).await, None);
    // The operator's word moved the mark: what ran last is what counts.
    stage.settings.allow_downgrade = Vec::new();
    assert_eq!(refusal(&stage.start().await).await, None);
}

#[tokio::test]
async fn a_newer_version_that_never_served_does_not_stand_in_the_way_of_the_older_one() {
    let stage = Stage::with(&["rogue"]).instance("rogue", Placement::Process, |_| ());
    rewrite(&stage, "rogue", |manifest| manifest.plugin.version = "1.0.0".to_owned());
    let host = stage.ready().await;
    rewrite(&stage, "rogue", |manifest| {
        manifest.plugin.version = "2.0.0".to_owned();
        manifest.selftest = Some(SelfTest { message: "abort".to_owned(), timeout_ms: 5_000 });
    });
    assert!(host.reload("rogue").await.is_err());
    rewrite(&stage, "rogue", |manifest| {
        manifest.plugin.version = "1.0.0".to_owned();
        manifest.selftest = None;
    });
    let again = stage.start().await;
    until(&again, "rogue", ModelState::serves).await;
}

#[tokio::test]
async fn what_is_exchanged_after_the_check_does_not_run() {
    let stage = echo();
    let host = stage.ready().await;
    fs::write(library(&stage), "not what was checked").unwrap();
    let pid = host.child_pid("echo").unwrap();
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    until_crashes(&host, "echo", 1).await;
    until(&host, "echo", ModelState::serves).await;
    let (text, end) = ask(&host, "echo", "still me").await;
    assert_eq!((text.as_str(), end.is_ok()), ("still me", true));
    println!(
        "{:<70} the bytes that were checked run on",
        "the library is exchanged after the check"
    );
    let reloaded = host.reload("echo").await.unwrap_err().to_string();
    println!("{:<70} {reloaded}", "... and the plugin is then loaded anew");
    assert!(reloaded.contains("sha256"), "{reloaded}");
}

#[test]
fn a_signing_key_that_others_can_read_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("signing.key");
    signing_key(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let reason = signing_key(&path).unwrap_err().to_string();
    println!(
        "{:<70} {}",
        "a signing key that others can read",
        reason.replace(path.to_str().unwrap(), "it")
    );
    assert!(reason.contains("can be read by others"), "{reason}");
}
