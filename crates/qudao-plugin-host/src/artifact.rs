//! From a folder to sealed bytes that may be loaded.
//!
//! The file is read once; what is hashed is what is sealed into a memfd, and the memfd is what
//! is loaded, so a file that changes afterwards changes nothing.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use object::{
    Architecture, Endianness, Object as _, ObjectSection as _, ObjectSymbol as _,
    elf::{DT_NEEDED, DT_RPATH, DT_RUNPATH, FileHeader64},
    read::elf::{Dyn as _, FileHeader as _},
};
use qudao_plugin_api::{
    abi::{
        QD_ABI_MAJOR, QD_ABI_MINOR, QD_ABI_SYMBOL, QD_ENTRY_SYMBOL, QD_F_ASYNC, QD_F_BLOCKING,
        QD_MAGIC,
    },
    manifest::{
        Artifact, MANIFEST_FILE, Manifest, ManifestError, SIGNATURE_FILE, sha256_hex, verify,
    },
};

use crate::{
    disk::{self, read_inside},
    settings::HostSettings,
    versions,
};

/// Artifacts above this are refused, in bytes.
const ARTIFACT_BYTES_MAX: u64 = 2 << 30;
/// Manifests above this are refused, in bytes.
pub(crate) const MANIFEST_BYTES_MAX: u64 = 1 << 20;
/// A signature's 193 characters, and a line end or two.
const SIGNATURE_BYTES_MAX: u64 = 1 << 10;

/// Why a plugin or one of its artifacts is not loaded.
#[derive(Debug, thiserror::Error)]
pub enum RefusalError {
    /// A file that cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A manifest or signature that does not hold.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// No signature where one is required.
    #[error("plugin.toml has no signature, and unsigned plugins are not allowed")]
    Unsigned,
    /// Unsigned, where others than the operator can write.
    #[error("plugin.toml has no trusted signature, and {0}")]
    Unguarded(String),
    /// Older than what has served here.
    #[error(
        "version {found} is older than {highest}, which has run here; list the plugin in \
         plugins.allow_downgrade to run it all the same"
    )]
    Downgrade {
        /// In the manifest.
        found: String,
        /// What has run here.
        highest: String,
    },
    /// Signed when it served here, and not any more.
    #[error(
        "it is not signed by a trusted key, and was signed by {0} when it ran here; list the \
         plugin in plugins.allow_downgrade to run it all the same"
    )]
    SignatureLost(String),
    /// Another plugin of the same id.
    #[error("{0} holds a plugin of the same id")]
    Twice(PathBuf),
    /// A link that leads out of the plugin's folder.
    #[error("{0} leads out of the plugin's folder")]
    Outside(String),
    /// Bytes other than the manifest's.
    #[error("{path} has the sha256 {found}, the manifest says {expected}")]
    Hash {
        /// Which file.
        path: String,
        /// Of its bytes.
        found: String,
        /// In the manifest.
        expected: String,
    },
    /// Not a library of this machine.
    #[error("{path} is not a shared library for this machine: {reason}")]
    NotALibrary {
        /// Which file.
        path: String,
        /// Why not.
        reason: String,
    },
    /// Libraries from places that the loader should not look at.
    #[error("{path} brings libraries of its own: {reason}")]
    SearchPath {
        /// Which file.
        path: String,
        /// Which, and what is wrong with it.
        reason: String,
    },
    /// A symbol that every plugin exports.
    #[error("{path} does not export {symbol}")]
    NoSymbol {
        /// Which file.
        path: String,
        /// Which symbol.
        symbol: &'static str,
    },
    /// Built for another ABI.
    #[error("{path} is built for another ABI: {reason}")]
    Abi {
        /// Which file.
        path: String,
        /// What differs.
        reason: String,
    },
    /// A shared library that this machine does not have.
    #[error("the required library {0} is missing")]
    MissingLibrary(String),
    /// The plugin's schema of its settings is none.
    #[error("{path} is no schema of settings: {reason}")]
    Schema {
        /// Which file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Settings that the plugin's schema does not allow.
    #[error("the instance's settings do not fit the plugin: {0}")]
    Config(String),
    /// No artifact for this machine loads.
    #[error("no artifact can be used: {0}")]
    NoArtifact(String),
}

/// A manifest whose signature holds.
#[derive(Debug, Clone)]
pub(crate) struct VerifiedPlugin {
    pub(crate) folder: PathBuf,
    pub(crate) manifest: Manifest,
    pub(crate) signer: Option<[u8; 32]>,
}

/// Reads and verifies the manifest in `folder`.
pub(crate) fn verify_plugin(
    folder: &Path,
    settings: &HostSettings,
) -> Result<VerifiedPlugin, RefusalError> {
    let bytes = read_inside(folder, MANIFEST_FILE, MANIFEST_BYTES_MAX)?;
    let signature = match read_inside(folder, SIGNATURE_FILE, SIGNATURE_BYTES_MAX) {
        Ok(signature) => Some(signature),
        Err(RefusalError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let signer = match signature.as_deref().map(str::from_utf8) {
        Some(Ok(signature)) => match verify(&bytes, signature, &settings.trusted_keys) {
            Ok(signer) => Some(signer),
            // Whoever takes no signature at all also takes that of a stranger.
            Err(ManifestError::UnknownSigner(_)) if settings.allow_unsigned => None,
            Err(error) => return Err(error.into()),
        },
        Some(Err(_)) => return Err(ManifestError::MalformedSignature.into()),
        None => None,
    };
    if signer.is_none() && !settings.allow_unsigned {
        return Err(RefusalError::Unsigned);
    }
    if signer.is_none() {
        // No signature stands between the plugin and whoever can write here.
        disk::guarded(&folder.join(MANIFEST_FILE)).map_err(RefusalError::Unguarded)?;
    }
    let text = str::from_utf8(&bytes).map_err(|_| ManifestError::NotText)?;
    let plugin =
        VerifiedPlugin { folder: folder.to_owned(), manifest: Manifest::parse(text)?, signer };
    if !settings.allow_downgrade.contains(&plugin.manifest.plugin.id) {
        versions::check(&settings.state_dir, &plugin)?;
    }
    Ok(plugin)
}

/// Bytes that were verified and can no longer change.
#[derive(Debug, Clone)]
pub(crate) struct SealedArtifact {
    pub(crate) memfd: Arc<OwnedFd>,
    pub(crate) variant: String,
    /// Whether it computes on a GPU.
    pub(crate) gpu: bool,
}

/// Verifies one artifact and seals its bytes.
pub(crate) fn seal(folder: &Path, artifact: &Artifact) -> Result<SealedArtifact, RefusalError> {
    if let Some(missing) = artifact.libs.iter().find(|name| !library_exists(name)) {
        return Err(RefusalError::MissingLibrary(missing.clone()));
    }
    let bytes = read_inside(folder, &artifact.path, ARTIFACT_BYTES_MAX)?;
    let found = sha256_hex(&bytes);
    if found != artifact.sha256 {
        let (path, expected) = (artifact.path.clone(), artifact.sha256.clone());
        return Err(RefusalError::Hash { path, found, expected });
    }
    check_elf(&artifact.path, &bytes)?;
    check_search_path(&artifact.path, &bytes)?;
    let memfd = sealed_memfd(&bytes)
        .map_err(|source| RefusalError::Read { path: artifact.path.clone().into(), source })?;
    let of_gpu = |name: &String| {
        let name = Path::new(name).file_name().unwrap_or_default();
        name.to_string_lossy().starts_with("libcuda.")
    };
    let gpu = artifact.libs.iter().any(of_gpu);
    Ok(SealedArtifact { memfd: Arc::new(memfd), variant: artifact.variant.clone(), gpu })
}

fn sealed_memfd(bytes: &[u8]) -> io::Result<OwnedFd> {
    // SAFETY: the name is NUL-terminated; the result is checked.
    let fd = unsafe {
        libc::memfd_create(c"qudao-plugin".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    let mut file = unsafe { File::from_raw_fd(fd) };
    file.write_all(bytes)?;
    let seals = libc::F_SEAL_WRITE | libc::F_SEAL_GROW | libc::F_SEAL_SHRINK | libc::F_SEAL_SEAL;
    // SAFETY: a plain fcntl on our own descriptor.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file.into())
}

/// Reads `QUDAO_PLUGIN_ABI` from the file itself: loading would already run its constructors.
fn check_elf(path: &str, bytes: &[u8]) -> Result<(), RefusalError> {
    let not_a_library =
        |reason: String| RefusalError::NotALibrary { path: path.to_owned(), reason };
    let file = object::File::parse(bytes).map_err(|error| not_a_library(error.to_string()))?;
    let machine =
        if cfg!(target_arch = "aarch64") { Architecture::Aarch64 } else { Architecture::X86_64 };
    if file.architecture() != machine {
        return Err(not_a_library(format!("it is for {:?}", file.architecture())));
    }
    let symbol = |name: &'static str| {
        file.dynamic_symbols()
            .find(|symbol| symbol.is_definition() && symbol.name() == Ok(name))
            .ok_or(RefusalError::NoSymbol { path: path.to_owned(), symbol: name })
    };
    let info = symbol(QD_ABI_SYMBOL)?;
    symbol(QD_ENTRY_SYMBOL)?;
    let block = info
        .section_index()
        .and_then(|index| file.section_by_index(index).ok())
        .and_then(|section| section.data_range(info.address(), 56).ok().flatten());
    let Some(block) = block else {
        return Err(not_a_library(format!("{QD_ABI_SYMBOL} has no data")));
    };
    let refused = |reason: String| Err(RefusalError::Abi { path: path.to_owned(), reason });
    let number = |at: usize, len: usize| {
        block[at..at + len].iter().rev().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte))
    };
    if number(0, 8) != QD_MAGIC {
        return refused("its magic is wrong".to_owned());
    }
    let (major, minor) = (number(12, 2), number(14, 2));
    if major != u64::from(QD_ABI_MAJOR) {
        return refused(format!("{major}.{minor}, this host serves {QD_ABI_MAJOR}.{QD_ABI_MINOR}"));
    }
    if number(16, 4) & u64::from(QD_F_BLOCKING | QD_F_ASYNC) == 0 {
        return refused("it offers neither run nor submit".to_owned());
    }
    Ok(())
}

/// A library may bring others along from where everybody can write: what they hold was hashed by
/// nobody.
fn check_search_path(path: &str, bytes: &[u8]) -> Result<(), RefusalError> {
    let named = elf_names(bytes).map_err(|error| RefusalError::NotALibrary {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    let refused = |reason: String| RefusalError::SearchPath { path: path.to_owned(), reason };
    for (tag, name) in named {
        if tag == DT_NEEDED.0 && name.contains('/') {
            return Err(refused(format!("{name} is needed by its path")));
        }
        for place in name.split(':').filter(|_| tag != DT_NEEDED.0) {
            if !place.starts_with('/') {
                return Err(refused(format!("{place:?} is no absolute path")));
            }
            if Path::new(place).exists() {
                disk::guarded(Path::new(place)).map_err(refused)?;
            }
        }
    }
    Ok(())
}

/// The names by which an ELF file asks for other files, with the tag of each.
fn elf_names(bytes: &[u8]) -> object::Result<Vec<(i64, String)>> {
    let header = FileHeader64::<Endianness>::parse(bytes)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, bytes)?;
    let Some((entries, link)) = sections.dynamic(endian, bytes)? else { return Ok(Vec::new()) };
    let strings = sections.strings(endian, bytes, link)?;
    let mut names = Vec::new();
    for entry in entries {
        let tag = entry.d_tag(endian);
        if [DT_NEEDED, DT_RPATH, DT_RUNPATH].contains(&tag) {
            let name = String::from_utf8_lossy(entry.string(endian, strings)?).into_owned();
            names.push((tag.0, name));
        }
    }
    Ok(names)
}

/// Whether the loader would find `name`, without running any of its code.
fn library_exists(name: &str) -> bool {
    if name.contains('/') {
        return Path::new(name).exists();
    }
    let cached = fs::read("/etc/ld.so.cache").unwrap_or_default();
    let wanted = name.as_bytes();
    let in_cache = cached
        .windows(wanted.len() + 1)
        .any(|at| at[..wanted.len()] == *wanted && at[wanted.len()] == 0);
    let searched = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    in_cache
        || std::env::split_paths(&searched).any(|folder| folder.join(name).exists())
        || ["/lib", "/usr/lib", "/lib64", "/usr/lib64"]
            .iter()
            .any(|folder| Path::new(folder).join(name).exists())
}

#[cfg(test)]
mod tests;
