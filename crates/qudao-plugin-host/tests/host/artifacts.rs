//! Several artifacts of one plugin: the best that this machine can use serves, and one line says why it
//! is not a better one.

use std::{
    fs, io,
    path::Path,
    sync::{Arc, Mutex},
};

use qudao_plugin_host::{ModelState, Placement, pack};

use crate::stage::{SECRET, Stage, ask, built, root, until};

/// A driver that no machine has.
const DRIVER: &str = "libcuda.so.9";
/// What every library of Rust's needs, and whose name is long enough to be written over.
const NEEDED: &str = "libgcc_s.so.1";

/// A real library that needs `DRIVER`: echo, whose list of needed libraries is changed.
fn library_for_gpus(to: &Path) {
    let mut bytes = fs::read(built().join("libqudao_plugin_echo.so")).unwrap();
    let name = [NEEDED.as_bytes(), b"\0"].concat();
    let at = bytes.windows(name.len()).position(|window| window == name).unwrap();
    let mut changed = DRIVER.as_bytes().to_vec();
    changed.resize(name.len(), 0);
    bytes[at..at + name.len()].copy_from_slice(&changed);
    fs::write(to, bytes).unwrap();
}

/// A stage with an echo that has an artifact for GPUs, which the manifest says needs `libs`.
fn stage(libs: &str, placement: Placement) -> Stage {
    let stage = Stage::with(&[]);
    let built_here = stage.folder.path().join("built");
    fs::create_dir(&built_here).unwrap();
    let cpu = "libqudao_plugin_echo.so";
    fs::copy(built().join(cpu), built_here.join(cpu)).unwrap();
    library_for_gpus(&built_here.join("libqudao_plugin_echo_cuda.so"));
    let text = fs::read_to_string(root().join("plugins/echo/plugin.toml")).unwrap();
    let gpu = format!(
        "[[artifact]]\ntarget = \"any\"\nvariant = \"cuda\"\n\
         path = \"libqudao_plugin_echo_cuda.so\"\nscore = 100\nlibs = [{libs}]\n"
    );
    let template = stage.folder.path().join("plugin.toml");
    let at = text.find("[[artifact]]").unwrap();
    fs::write(&template, format!("{}{gpu}\n{}", &text[..at], &text[at..])).unwrap();
    let dist = stage.folder.path().join("plugins");
    pack(&template, &built_here, &dist, &SECRET).unwrap();
    stage.instance("echo", placement, |_| ())
}

/// Keeps what is logged.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl io::Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn without_its_driver_the_artifact_for_gpus_is_refused_and_the_processors_takes_its_place() {
    // The instances log on threads of their own. Other tests of a shared process log here as well, under
    // other reasons.
    let kept = Kept::default();
    let writer = kept.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_writer(move || writer.clone())
        .finish();
    let _ = tracing::subscriber::set_global_default(subscriber);
    let said = |reason: &str| {
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        let lines = text.lines().filter(|line| line.contains(reason)).map(str::to_owned);
        lines.collect::<Vec<_>>()
    };
    // Where the manifest names the driver nothing is loaded; where it does not, the loader's word counts.
    let cases = [
        (format!("\"{DRIVER}\""), format!("cuda: the required library {DRIVER} is missing")),
        (String::new(), format!("cuda: dlopen: {DRIVER}: cannot open shared object file")),
    ];
    for (libs, reason) in cases {
        for placement in [Placement::Process, Placement::Inproc] {
            let before = said(&reason).len();
            let host = stage(&libs, placement).ready().await;
            let report = host.model("echo").unwrap();
            assert_eq!((report.variant.as_str(), report.crashes), ("cpu", 0), "{placement:?}");
            assert!(ask(&host, "echo", "hello").await.1.is_ok());
            let lines = said(&reason);
            assert_eq!(lines.len(), before + 1, "{placement:?}: {lines:?}");
            let line = lines.last().unwrap();
            assert!(line.contains("variant=\"cpu\"") && line.contains("takes its place"), "{line}");
            host.shutdown(std::time::Duration::from_secs(1)).await;
        }
    }
}

#[tokio::test]
async fn what_computes_on_a_gpu_stays_out_of_the_platforms_process() {
    let stage = Stage::with(&[]);
    // A driver that is there: a library that is named by its path counts if the file exists.
    let driver = stage.folder.path().join("libcuda.so.1");
    fs::write(&driver, "").unwrap();
    let text = fs::read_to_string(root().join("plugins/echo/plugin.toml")).unwrap();
    let libs = format!("variant = \"cuda\"\nlibs = [\"{}\"]", driver.display());
    let template = stage.folder.path().join("plugin.toml");
    fs::write(&template, text.replacen("variant = \"cpu\"", &libs, 1)).unwrap();
    pack(&template, built(), &stage.folder.path().join("plugins"), &SECRET).unwrap();
    for (placement, serves) in [(Placement::Inproc, false), (Placement::Process, true)] {
        let mut stage = Stage::with(&[]).instance("echo", placement, |_| ());
        stage.settings.plugin_dirs = vec![template.with_file_name("plugins")];
        let host = stage.start().await;
        let as_expected = |state: &ModelState| match state {
            ModelState::Failed { reason } => {
                !serves && reason.contains("its placement has to be `process`")
            }
            state => serves && state.serves(),
        };
        until(&host, "echo", as_expected).await;
        host.shutdown(std::time::Duration::from_secs(1)).await;
    }
}
