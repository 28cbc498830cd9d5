//! A new plugin that compiles, for authors to start from.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Where the new plugin takes the SDK from.
#[derive(Debug, Clone)]
pub enum SdkSource {
    /// A folder with the crate `qudao-plugin-api`.
    Path(PathBuf),
    /// A version of it in a registry.
    Version(String),
}

const LIB: &str = r#"//! A plugin for Qudao.

use qudao_plugin_api::{
    Completion, Host, ModelPlugin, PluginError, Request, Sink, export_plugin, wire::Usage,
};

struct Shout;

impl ModelPlugin for Shout {
    type Config = serde_json::Value;

    fn create(_host: Host, _config: Self::Config) -> Result<Self, PluginError> {
        Ok(Self)
    }

    fn run(&self, request: Request<'_>, sink: &Sink<'_>) -> Result<Completion, PluginError> {
        sink.token(&request.chat()?.last_user_text().to_uppercase())?;
        Ok(Completion::stop(Usage { input_tokens: 1, output_tokens: 1 }))
    }
}

export_plugin!(Shout);
"#;

/// Writes `<dir>/<name>` with `Cargo.toml`, `plugin.toml` and `src/lib.rs`. Returns the folder.
///
/// # Errors
/// When the name is not of a-z, 0-9 and '-', when the folder exists, or when it cannot be written.
pub fn scaffold(dir: &Path, name: &str, sdk: &SdkSource) -> io::Result<PathBuf> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let letter = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
    if !letter || 48 < name.len() || !name.bytes().all(plain) {
        let rule = "a plugin's name begins with a letter and is made of a-z, 0-9 and '-'";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, rule));
    }
    let folder = dir.join(name);
    fs::create_dir_all(dir)?;
    fs::create_dir(&folder)?;
    fs::create_dir(folder.join("src"))?;
    let sdk = match sdk {
        SdkSource::Path(path) => format!("{{ path = {:?} }}", path.display().to_string()),
        SdkSource::Version(version) => format!("{version:?}"),
    };
    let library = name.replace('-', "_");
    fs::write(
        folder.join("Cargo.toml"),
        format!(
            "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n\
             [lib]\ncrate-type = [\"cdylib\"]\n\n\
             [dependencies]\nqudao-plugin-api = {sdk}\nserde_json = \"1\"\n\n[workspace]\n"
        ),
    )?;
    fs::write(
        folder.join("plugin.toml"),
        format!(
            "schema = 1\n\n[plugin]\nid = \"{name}\"\nversion = \"0.1.0\"\nabi = \"1.0\"\n\
             kinds = [\"chat\"]\n\n\
             [[artifact]]\ntarget = \"any\"\nvariant = \"cpu\"\npath = \"lib/lib{library}.so\"\n"
        ),
    )?;
    fs::write(folder.join("src/lib.rs"), LIB)?;
    Ok(folder)
}
