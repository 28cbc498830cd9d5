//! From a template and built libraries to a signed plugin folder.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use qudao_plugin_api::manifest::{
    MANIFEST_FILE, Manifest, ManifestError, SIGNATURE_FILE, TARGET, sha256_hex, sign,
};

/// Why a plugin could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A file that cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A template that breaks the rules.
    #[error(transparent)]
    Template(#[from] ManifestError),
    /// None of the artifacts was built.
    #[error("none of the artifacts was built: looked for {0}")]
    NothingBuilt(String),
    /// A key file that does not hold 64 hex digits.
    #[error("{0} does not hold a key")]
    Key(PathBuf),
    /// A secret that others can read.
    #[error("{0} can be read by others: make a new key, and keep it with mode 600")]
    Exposed(PathBuf),
    /// The finished manifest could not be written as TOML.
    #[error("writing the manifest: {0}")]
    Write(#[from] toml::ser::Error),
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> PackError {
    let path = path.to_owned();
    move |source| PackError::File { path, source }
}

/// Reads the secret key in `path`, or makes one there that only its owner can read.
///
/// # Errors
/// [`PackError::File`] and [`PackError::Key`].
pub fn signing_key(path: &Path) -> Result<[u8; 32], PackError> {
    let mut key = [0; 32];
    match fs::read_to_string(path) {
        Ok(text) => {
            let mode = fs::metadata(path).map_err(at(path))?.permissions().mode();
            if mode & 0o077 != 0 {
                return Err(PackError::Exposed(path.to_owned()));
            }
            hex::decode_to_slice(text.trim(), &mut key)
                .map_err(|_| PackError::Key(path.to_owned()))?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            key = rand::random();
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).map_err(at(folder))?;
            }
            let mut options = fs::OpenOptions::new();
            let file = options.write(true).create_new(true).mode(0o600).open(path);
            let text = format!("{}\n", hex::encode(key));
            file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(at(path))?;
        }
        Err(source) => return Err(at(path)(source)),
    }
    Ok(key)
}

/// Lays a plugin out under `dist/<id>`: the artifacts that were built (found in `built` by file
/// name), the manifest with their hashes, and its signature. Returns the folder.
///
/// Artifacts that were not built are left out of the manifest, so that a machine without a GPU
/// toolchain packs the same template. `target = "any"` becomes this machine's target.
///
/// # Errors
/// [`PackError`].
pub fn pack(
    template: &Path,
    built: &Path,
    dist: &Path,
    secret: &[u8; 32],
) -> Result<PathBuf, PackError> {
    let text = fs::read_to_string(template).map_err(at(template))?;
    let mut manifest = Manifest::parse_template(&text)?;
    let folder = dist.join(&manifest.plugin.id);
    let (mut packed, mut missing) = (Vec::new(), Vec::new());
    for mut artifact in std::mem::take(&mut manifest.artifacts) {
        let name = Path::new(&artifact.path).file_name().unwrap_or_default();
        let source = built.join(name);
        let bytes = match fs::read(&source) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                missing.push(source.display().to_string());
                continue;
            }
            Err(error) => return Err(at(&source)(error)),
        };
        artifact.sha256 = sha256_hex(&bytes);
        if artifact.target == "any" {
            TARGET.clone_into(&mut artifact.target);
        }
        write(&folder.join(&artifact.path), &bytes)?;
        packed.push(artifact);
    }
    if packed.is_empty() {
        return Err(PackError::NothingBuilt(missing.join(", ")));
    }
    manifest.artifacts = packed;
    let beside = template.parent().unwrap_or(Path::new("."));
    if let Some(config) = &manifest.config {
        let bytes =
            fs::read(beside.join(&config.schema)).map_err(at(&beside.join(&config.schema)))?;
        write(&folder.join(&config.schema), &bytes)?;
    }
    let text = toml::to_string(&manifest)?;
    write(&folder.join(MANIFEST_FILE), text.as_bytes())?;
    write(&folder.join(SIGNATURE_FILE), sign(text.as_bytes(), secret).as_bytes())?;
    Ok(folder)
}

/// Replaces a file in one step: a host that reads meanwhile sees the old or the new one.
fn write(path: &Path, bytes: &[u8]) -> Result<(), PackError> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(at(folder))?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    fs::write(&new, bytes).map_err(at(&new))?;
    fs::rename(&new, path).map_err(at(path))
}
