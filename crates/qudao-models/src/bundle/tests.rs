use super::*;
use crate::catalogue::{Model, Source, SourceKind};

const ONE: &[u8] = b"GGUF the first of two";
const TWO: &[u8] = b"GGUF the second, which nobody vouches for";

fn sum(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn model(name: &str, sha256: Option<String>) -> Model {
    let kind = SourceKind::HuggingFace { repository: "a/b".to_owned(), file: "f".to_owned() };
    let text = format!(
        "name='{name}'\ntitle='t'\nlanguages=[]\nlicence='x'\nfamily='llama'\ncontext_tokens=1\nsource=[]"
    );
    let mut model: Model = toml::from_str(&text).unwrap();
    model.sources = vec![Source { kind, note: String::new(), sha256 }];
    model
}

/// A machine with models, and one without.
struct Machines {
    folder: tempfile::TempDir,
    catalogue: Catalogue,
}

impl Machines {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let catalogue =
            Catalogue { models: vec![model("one", Some(sum(ONE))), model("two", None)] };
        let machines = Self { folder, catalogue };
        std::fs::create_dir(machines.here()).unwrap();
        std::fs::write(machines.here().join("one.gguf"), ONE).unwrap();
        std::fs::write(machines.here().join("two.gguf"), TWO).unwrap();
        machines
    }

    fn here(&self) -> PathBuf {
        self.folder.path().join("here")
    }

    fn there(&self) -> PathBuf {
        self.folder.path().join("there")
    }

    fn tar(&self) -> PathBuf {
        self.folder.path().join("models.tar")
    }

    fn export(&self, names: &[&str]) -> Result<Vec<Exported>, ModelsError> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        export(&names, &self.catalogue, &self.here(), &self.tar(), &|_, _, _| ())
    }

    fn import(&self, from: &Path, accept: bool) -> Result<Vec<Imported>, ModelsError> {
        import(from, &self.catalogue, &self.there(), accept, &|_, _, _| ())
    }

    /// What an import left behind, locks apart.
    fn left(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.there()).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| !name.ends_with(".lock")).collect();
        names.sort();
        names
    }

    /// A tar file with members as told, links among them.
    fn forge(&self, members: &[(&str, &[u8], tar::EntryType)]) -> PathBuf {
        let path = self.folder.path().join("forged.tar");
        let mut tar = tar::Builder::new(File::create(&path).unwrap());
        for (name, bytes, kind) in members {
            let mut header = tar::Header::new_gnu();
            // Written by hand: the library itself writes no path that leads out.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_size(bytes.len() as u64);
            header.set_entry_type(*kind);
            header.set_cksum();
            tar.append(&header, *bytes).unwrap();
        }
        tar.finish().unwrap();
        path
    }
}

fn list(entries: &[(&str, &str, &[u8])]) -> Vec<u8> {
    let models: Vec<_> = entries
        .iter()
        .map(|(name, file, bytes)| {
            serde_json::json!({ "name": name, "file": file, "sha256": sum(bytes), "bytes": bytes.len() })
        })
        .collect();
    serde_json::to_vec(&serde_json::json!({ "schema": 1, "models": models })).unwrap()
}

const FILE: tar::EntryType = tar::EntryType::Regular;

#[test]
fn what_one_machine_writes_another_without_a_way_out_reads() {
    let machines = Machines::new();
    let exported = machines.export(&["two", "one", "one"]).unwrap();
    assert_eq!(exported.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["one", "two"]);
    let imported = machines.import(&machines.tar(), true).unwrap();
    assert_eq!(imported.iter().map(|one| one.verified).collect::<Vec<_>>(), [true, false]);
    assert_eq!(std::fs::read(&imported[1].path).unwrap(), TWO);
    let names = ["one.gguf", "one.gguf.sha256", "two.gguf", "two.gguf.sha256"];
    assert_eq!(machines.left(), names);
    // As a medium is unpacked by hand.
    std::fs::remove_dir_all(machines.there()).unwrap();
    let unpacked = machines.folder.path().join("unpacked");
    tar::Archive::new(File::open(machines.tar()).unwrap()).unpack(&unpacked).unwrap();
    assert_eq!(machines.import(&unpacked, true).unwrap(), imported);
    // Without its list the names of the catalogue tell.
    std::fs::remove_file(unpacked.join(MANIFEST)).unwrap();
    assert_eq!(machines.import(&unpacked, true).unwrap(), imported);
}

#[test]
fn what_nobody_vouches_for_needs_consent_once_and_must_stay_the_same() {
    let machines = Machines::new();
    machines.export(&["one", "two"]).unwrap();
    let error = machines.import(&machines.tar(), false).unwrap_err();
    assert!(matches!(&error, ModelsError::Unverified { what } if what == "two.gguf"), "{error}");
    assert!(machines.left().is_empty(), "nothing is taken of a bundle that is refused");
    machines.import(&machines.tar(), true).unwrap();
    machines.import(&machines.tar(), false).unwrap();
    let other = machines
        .forge(&[(MANIFEST, &list(&[("two", "two.gguf", ONE)]), FILE), ("two.gguf", ONE, FILE)]);
    let error = machines.import(&other, true).unwrap_err();
    assert!(matches!(error, ModelsError::Mismatch { .. }), "{error}");
    assert_eq!(std::fs::read(machines.there().join("two.gguf")).unwrap(), TWO);
}

#[test]
fn the_catalogue_vouches_and_the_bundles_own_list_does_not() {
    let machines = Machines::new();
    let forged = machines
        .forge(&[(MANIFEST, &list(&[("one", "one.gguf", TWO)]), FILE), ("one.gguf", TWO, FILE)]);
    for accept in [false, true] {
        let error = machines.import(&forged, accept).unwrap_err().to_string();
        assert!(error.contains(&sum(ONE)) && error.contains(&sum(TWO)), "{error}");
    }
    // The list is right and the bytes are not.
    let forged = machines.forge(&[
        (MANIFEST, &list(&[("one", "one.gguf", ONE)]), FILE),
        ("one.gguf", &ONE.to_ascii_uppercase(), FILE),
    ]);
    let error = machines.import(&forged, true).unwrap_err();
    assert!(matches!(error, ModelsError::Mismatch { .. }), "{error}");
    assert!(machines.left().is_empty());
}

#[test]
fn a_bundle_that_was_cut_off_anywhere_is_refused_and_leaves_nothing() {
    let machines = Machines::new();
    machines.export(&["one", "two"]).unwrap();
    let whole = std::fs::read(machines.tar()).unwrap();
    let cut = machines.folder.path().join("cut.tar");
    // What follows the last file's bytes is padding and the mark of the end.
    let end = whole.len() - 1024 - 512 + TWO.len();
    for length in (0..end).step_by(97).chain([end - 1]) {
        std::fs::write(&cut, &whole[..length]).unwrap();
        let outcome = machines.import(&cut, true);
        assert!(outcome.is_err(), "{length} of {}: {outcome:?}", whole.len());
        assert!(machines.left().is_empty(), "{length}");
    }
}

#[test]
fn nothing_in_a_bundle_leads_out_of_the_models_directory() {
    let machines = Machines::new();
    let link = tar::EntryType::Symlink;
    let honest = list(&[("one", "one.gguf", ONE)]);
    type Entry<'a> = (&'a str, &'a [u8], tar::EntryType);
    let cases: [(&str, Vec<Entry<'_>>); 8] = [
        ("a member above", vec![(MANIFEST, &honest, FILE), ("../one.gguf", ONE, FILE)]),
        ("a member elsewhere", vec![(MANIFEST, &honest, FILE), ("/tmp/one.gguf", ONE, FILE)]),
        ("a link", vec![(MANIFEST, &honest, FILE), ("one.gguf", b"", link)]),
        ("a stranger", vec![(MANIFEST, &honest, FILE), ("notes.txt", ONE, FILE)]),
        (
            "a file twice",
            vec![(MANIFEST, &honest, FILE), ("one.gguf", ONE, FILE), ("one.gguf", ONE, FILE)],
        ),
        ("no list", vec![("one.gguf", ONE, FILE)]),
        ("another length", vec![(MANIFEST, &honest, FILE), ("one.gguf", &ONE[1..], FILE)]),
        ("no end", vec![(MANIFEST, &honest, FILE)]),
    ];
    for (what, members) in cases {
        let error = machines.import(&machines.forge(&members), true).unwrap_err();
        assert!(matches!(error, ModelsError::Bundle { .. }), "{what}: {error}");
    }
    for (name, file) in [
        ("../evil", "../evil.gguf"),
        ("evil", "../evil.gguf"),
        ("evil", "evil.gguf.sha256"),
        (".one", ".one.gguf"),
        ("one", "two.gguf"),
        ("a/b", "a/b.gguf"),
    ] {
        let forged = machines.forge(&[(MANIFEST, &list(&[(name, file, ONE)]), FILE)]);
        let error = machines.import(&forged, true).unwrap_err();
        assert!(matches!(error, ModelsError::Bundle { .. }), "{name} {file}: {error}");
    }
    // A directory's link.
    let folder = machines.folder.path().join("folder");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join(MANIFEST), &honest).unwrap();
    std::os::unix::fs::symlink(machines.here().join("one.gguf"), folder.join("one.gguf")).unwrap();
    let error = machines.import(&folder, true).unwrap_err().to_string();
    assert!(error.contains("no plain file"), "{error}");
    assert!(machines.left().is_empty());
}

#[test]
fn a_list_without_end_and_bytes_of_anything_are_refused() {
    let machines = Machines::new();
    let long = vec![b' '; usize::try_from(MANIFEST_BYTES_MAX).unwrap() + 1];
    let forged = machines.forge(&[(MANIFEST, &long, FILE)]);
    assert!(machines.import(&forged, true).unwrap_err().to_string().contains("too long"));
    let junk = machines.folder.path().join("junk.tar");
    for bytes in [&b""[..], b"PK\x03\x04 no tar", &[0; 4096], &[0xff; 2048]] {
        std::fs::write(&junk, bytes).unwrap();
        assert!(matches!(machines.import(&junk, true), Err(ModelsError::Bundle { .. })));
    }
}

#[test]
fn a_file_that_changed_since_it_was_brought_is_not_handed_on() {
    let machines = Machines::new();
    let path = machines.here().join("one.gguf");
    Record { sum: sum(ONE), length: ONE.len() as u64, accepted: false }.write(&path).unwrap();
    std::fs::write(&path, TWO).unwrap();
    let error = machines.export(&["one"]).unwrap_err();
    assert!(matches!(error, ModelsError::Mismatch { .. }), "{error}");
    assert!(!machines.tar().exists());
    let error = machines.export(&["three"]).unwrap_err();
    assert!(matches!(error, ModelsError::Absent { .. }), "{error}");
}
