//! Models on a medium, for machines without a way out: a tar file that begins with a list of what is in
//! it, or a directory with the same files.
//!
//! A bundle is a stranger's bytes. Its list may name nothing that leads out of the models' directory, the
//! files have to be those that it names, and what vouches for them is this machine's catalogue, not the
//! list. Nothing is in its place before all of it is whole and compared.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::catalogue::{Catalogue, is_plain};
use crate::error::ModelsError;
use crate::package::sha256;
use crate::pull::{Progress, Record, lock, put_in_place};
use crate::remove::file_of;

/// The list of a bundle, its first file.
pub const MANIFEST: &str = "qudao-models.json";
/// A list is refused above this, in bytes.
const MANIFEST_BYTES_MAX: u64 = 1 << 20;
const SCHEMA: u32 = 1;
const PIECE: usize = 1 << 20;

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    schema: u32,
    models: Vec<Entry>,
}

/// A model in a list.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    file: String,
    sha256: String,
    bytes: u64,
}

/// A model that was written into a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// Its name.
    pub name: String,
    /// Checksum of its file.
    pub sha256: String,
    /// Length of its file.
    pub bytes: u64,
}

/// A model that came out of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// Its name.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
    /// The file's checksum.
    pub sha256: String,
    /// Whether the catalogue vouches for it.
    pub verified: bool,
}

fn refused(bundle: &Path, reason: impl Into<String>) -> ModelsError {
    ModelsError::Bundle { bundle: bundle.to_owned(), reason: reason.into() }
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> ModelsError {
    let path = path.to_owned();
    move |source| ModelsError::File { path, source }
}

/// Writes the models of these names, which are in `directory`, to the tar file `to`. Each is read once
/// more and compared with the checksum it had when it was brought.
///
/// # Errors
/// [`ModelsError::Absent`], [`ModelsError::Mismatch`], [`ModelsError::File`].
pub fn export(
    names: &[String],
    catalogue: &Catalogue,
    directory: &Path,
    to: &Path,
    progress: &Progress<'_>,
) -> Result<Vec<Exported>, ModelsError> {
    let mut entries = Vec::new();
    for name in names.iter().collect::<BTreeSet<_>>() {
        let path = file_of(name, catalogue, directory).ok_or_else(|| ModelsError::Absent {
            name: name.clone(),
            directory: directory.to_owned(),
        })?;
        entries.push((entry(name, &path)?, path));
    }
    let folder = to.parent().filter(|parent| !parent.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let out = tempfile::NamedTempFile::new_in(folder).map_err(at(folder))?;
    let mut tar = tar::Builder::new(out);
    let models = entries.iter().map(|(entry, _)| entry.clone()).collect();
    let list = serde_json::to_vec_pretty(&Manifest { schema: SCHEMA, models })
        .map_err(|error| refused(to, error.to_string()))?;
    append(&mut tar, MANIFEST, list.len() as u64, &*list).map_err(at(to))?;
    for (entry, path) in &entries {
        progress(&entry.name, 0, Some(entry.bytes));
        let file = BufReader::with_capacity(PIECE, File::open(path).map_err(at(path))?);
        append(&mut tar, &entry.file, entry.bytes, file.take(entry.bytes)).map_err(at(to))?;
        progress(&entry.name, entry.bytes, Some(entry.bytes));
    }
    let out = tar.into_inner().map_err(at(to))?;
    out.as_file().sync_all().map_err(at(to))?;
    out.persist(to).map_err(|error| at(to)(error.error))?;
    let exported = |(entry, _): (Entry, PathBuf)| Exported {
        name: entry.name,
        sha256: entry.sha256,
        bytes: entry.bytes,
    };
    Ok(entries.into_iter().map(exported).collect())
}

fn entry(name: &str, path: &Path) -> Result<Entry, ModelsError> {
    let sum = sha256(path)?;
    if let Some(record) = Record::read(path).filter(|record| record.sum != sum) {
        let what = format!("{}, which has changed since it was brought,", path.display());
        return Err(ModelsError::Mismatch { what, expected: record.sum, found: sum });
    }
    let bytes = std::fs::metadata(path).map_err(at(path))?.len();
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Entry { name: name.to_owned(), file, sha256: sum, bytes })
}

fn append(
    tar: &mut tar::Builder<impl Write>,
    name: &str,
    bytes: u64,
    from: impl Read,
) -> std::io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes);
    header.set_mode(0o644);
    header.set_entry_type(tar::EntryType::Regular);
    tar.append_data(&mut header, name, from)
}

/// Brings the models of a bundle into `directory`. With `accept_unverified` also those that the catalogue
/// does not vouch for; a file that it knows under another checksum is never taken.
///
/// # Errors
/// [`ModelsError::Bundle`] for what is no bundle or was cut off, [`ModelsError::Mismatch`],
/// [`ModelsError::Unverified`], [`ModelsError::File`]. Then nothing has changed.
pub fn import(
    bundle: &Path,
    catalogue: &Catalogue,
    directory: &Path,
    accept_unverified: bool,
    progress: &Progress<'_>,
) -> Result<Vec<Imported>, ModelsError> {
    std::fs::create_dir_all(directory).map_err(at(directory))?;
    let intake = Intake { bundle, catalogue, directory, accept_unverified, progress };
    let mut staged = Vec::new();
    let outcome =
        if bundle.is_dir() { intake.folder(&mut staged) } else { intake.archive(&mut staged) };
    let placed = outcome.and_then(|locks| {
        let placed = staged.iter().map(Staged::put_in_place).collect();
        drop(locks);
        placed
    });
    for staged in &staged {
        drop(std::fs::remove_file(&staged.partial));
    }
    placed
}

/// A whole file that is not in its place yet.
struct Staged {
    name: String,
    partial: PathBuf,
    path: PathBuf,
    sum: String,
    verified: bool,
}

impl Staged {
    fn put_in_place(&self) -> Result<Imported, ModelsError> {
        put_in_place(&self.partial, &self.path, &self.sum, self.verified)?;
        Ok(Imported {
            name: self.name.clone(),
            path: self.path.clone(),
            sha256: self.sum.clone(),
            verified: self.verified,
        })
    }
}

/// Files that are kept locked.
type Locks = Vec<File>;

/// What an import goes by.
struct Intake<'a> {
    bundle: &'a Path,
    catalogue: &'a Catalogue,
    directory: &'a Path,
    accept_unverified: bool,
    progress: &'a Progress<'a>,
}

impl Intake<'_> {
    fn refused(&self, reason: impl Into<String>) -> ModelsError {
        refused(self.bundle, reason)
    }

    fn archive(&self, staged: &mut Vec<Staged>) -> Result<Locks, ModelsError> {
        let file = File::open(self.bundle).map_err(at(self.bundle))?;
        let mut tar = tar::Archive::new(BufReader::with_capacity(PIECE, file));
        let broken = |error: std::io::Error| self.refused(error.to_string());
        let mut list = None;
        for member in tar.entries().map_err(broken)? {
            let mut member = member.map_err(broken)?;
            let name = String::from_utf8_lossy(&member.path_bytes()).into_owned();
            if member.header().entry_type() != tar::EntryType::Regular {
                return Err(self.refused(format!("{name:?} in it is no plain file")));
            }
            let Some((manifest, _)) = &list else {
                list = Some(self.list(&name, &mut member)?);
                continue;
            };
            let manifest: &Manifest = manifest;
            let Some(entry) = manifest.models.iter().find(|entry| entry.file == name) else {
                return Err(self.refused(format!("{name:?} is not in its list")));
            };
            if staged.iter().any(|staged| staged.name == entry.name) {
                return Err(self.refused(format!("{name:?} is in it twice")));
            }
            if member.size() != entry.bytes {
                let has = member.size();
                let said = entry.bytes;
                return Err(self.refused(format!("{name:?} has {has} bytes, its list says {said}")));
            }
            self.stage(entry, &mut member, staged)?;
        }
        let (manifest, locks) = list.ok_or_else(|| self.refused("it is empty"))?;
        self.whole(&manifest, staged)?;
        Ok(locks)
    }

    /// Reads the list, which comes first, and judges it before anything else is read.
    fn list(&self, name: &str, member: &mut impl Read) -> Result<(Manifest, Locks), ModelsError> {
        if name != MANIFEST {
            return Err(self.refused(format!("it does not begin with {MANIFEST}")));
        }
        let mut text = Vec::new();
        member.take(MANIFEST_BYTES_MAX + 1).read_to_end(&mut text).map_err(at(self.bundle))?;
        self.judge(&text)
    }

    fn judge(&self, text: &[u8]) -> Result<(Manifest, Locks), ModelsError> {
        if MANIFEST_BYTES_MAX < text.len() as u64 {
            return Err(self.refused("its list is too long"));
        }
        let manifest: Manifest = serde_json::from_slice(text)
            .map_err(|error| self.refused(format!("its list: {error}")))?;
        if manifest.schema != SCHEMA {
            return Err(self.refused(format!("its list has the form {}", manifest.schema)));
        }
        let mut names = BTreeSet::new();
        for entry in &manifest.models {
            self.check(entry)?;
            if !names.insert(entry.name.as_str()) {
                return Err(self.refused(format!("{} is in its list twice", entry.name)));
            }
        }
        // In order of their names, so that two imports do not wait for each other.
        let locks = names.iter().map(|name| lock(name, self.directory));
        let locks = locks.collect::<Result<Locks, _>>()?;
        Ok((manifest, locks))
    }

    /// Whether a model of a list may be brought at all.
    fn check(&self, entry: &Entry) -> Result<(), ModelsError> {
        let Entry { name, file, sha256, .. } = entry;
        let fits = match self.catalogue.model(name) {
            Ok(model) => *file == model.file_name(),
            Err(_) => ["gguf", "safetensors"].iter().any(|end| *file == format!("{name}.{end}")),
        };
        if !is_plain(name) || !fits {
            return Err(self.refused(format!("{name:?} cannot be a model in {file:?}")));
        }
        if sha256.len() != 64 || hex::decode(sha256).is_err() {
            return Err(self.refused(format!("{sha256:?} is not a sha256")));
        }
        self.vouch(name, file, sha256).map(drop)
    }

    /// Whether the catalogue vouches for a checksum, or nobody has to.
    fn vouch(&self, name: &str, file: &str, sum: &str) -> Result<bool, ModelsError> {
        let model = self.catalogue.model(name).ok();
        let known: Vec<&str> = model.iter().flat_map(|model| model.known_sums()).collect();
        if known.contains(&sum) {
            return Ok(true);
        }
        let (expected, found) = (known.join(" or "), sum.to_owned());
        if !known.is_empty() {
            return Err(ModelsError::Mismatch { what: file.to_owned(), expected, found });
        }
        match Record::read(&self.directory.join(file)).filter(|record| record.accepted) {
            Some(record) if record.sum == sum => Ok(false),
            Some(Record { sum: expected, .. }) => {
                Err(ModelsError::Mismatch { what: file.to_owned(), expected, found })
            }
            None if self.accept_unverified => Ok(false),
            None => Err(ModelsError::Unverified { what: file.to_owned() }),
        }
    }

    /// Copies a file beside its place and compares it.
    fn stage(
        &self,
        entry: &Entry,
        from: &mut impl Read,
        staged: &mut Vec<Staged>,
    ) -> Result<(), ModelsError> {
        let path = self.directory.join(&entry.file);
        let partial = self.directory.join(format!(".{}.import", entry.file));
        let verified = self.vouch(&entry.name, &entry.file, &entry.sha256)?;
        let (name, sum) = (entry.name.clone(), entry.sha256.clone());
        staged.push(Staged { name, partial: partial.clone(), path, sum, verified });
        let mut out = File::create(&partial).map_err(at(&partial))?;
        let (mut hash, mut have) = (Sha256::new(), 0);
        let mut buffer = vec![0; PIECE];
        loop {
            let length = from.read(&mut buffer).map_err(at(self.bundle))?;
            if length == 0 {
                break;
            }
            hash.update(&buffer[..length]);
            out.write_all(&buffer[..length]).map_err(at(&partial))?;
            have += length as u64;
            (self.progress)(&entry.name, have, Some(entry.bytes));
        }
        if have != entry.bytes {
            let (file, of) = (&entry.file, entry.bytes);
            return Err(self.refused(format!("it ends after {have} of {of} bytes of {file}")));
        }
        let found = hex::encode(hash.finalize());
        if found != entry.sha256 {
            let what = format!("{} of {}", entry.file, self.bundle.display());
            return Err(ModelsError::Mismatch { what, expected: entry.sha256.clone(), found });
        }
        out.sync_all().map_err(at(&partial))
    }

    fn whole(&self, manifest: &Manifest, staged: &[Staged]) -> Result<(), ModelsError> {
        let here = |entry: &&Entry| !staged.iter().any(|staged| staged.name == entry.name);
        match manifest.models.iter().find(here) {
            Some(missing) => Err(self.refused(format!("it ends before {}", missing.file))),
            None if manifest.models.is_empty() => Err(self.refused("its list names no model")),
            None => Ok(()),
        }
    }

    fn folder(&self, staged: &mut Vec<Staged>) -> Result<Locks, ModelsError> {
        let list = self.bundle.join(MANIFEST);
        let text = match std::fs::read(&list) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => self.survey()?,
            Err(error) => return Err(at(&list)(error)),
        };
        let (manifest, locks) = self.judge(&text)?;
        for entry in &manifest.models {
            let path = self.bundle.join(&entry.file);
            // A link could lead anywhere.
            let meta = std::fs::symlink_metadata(&path).map_err(at(&path))?;
            if !meta.is_file() {
                return Err(self.refused(format!("{} in it is no plain file", entry.file)));
            }
            self.stage(entry, &mut File::open(&path).map_err(at(&path))?, staged)?;
        }
        self.whole(&manifest, staged)?;
        Ok(locks)
    }

    /// The list of a directory without one: files that are called like those of the catalogue.
    fn survey(&self) -> Result<Vec<u8>, ModelsError> {
        let here = self.catalogue.models.iter().filter_map(|model| {
            let path = self.bundle.join(model.file_name());
            path.is_file().then(|| entry(&model.name, &path))
        });
        let models = here.collect::<Result<Vec<_>, _>>()?;
        if models.is_empty() {
            return Err(self.refused("it holds no file of a model of the catalogue"));
        }
        serde_json::to_vec(&Manifest { schema: SCHEMA, models })
            .map_err(|error| self.refused(error.to_string()))
    }
}

#[cfg(test)]
mod tests;
