//! The openai plugin in front of a provider that behaves and misbehaves.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use reqwest::{Method, StatusCode};
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    },
};

use crate::platform::{Platform, Wanted, built, open_for_all, openai_instance};

struct Upstream {
    child: Child,
    /// Host and port.
    address: String,
}

impl Upstream {
    fn start() -> Self {
        let mut child = Command::new(built("upstream")).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("http://").unwrap().to_owned();
        Self { child, address }
    }

    fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn status_and_code(platform: &Platform, model: &str) -> (StatusCode, String) {
    let body = json!({ "model": model, "messages": [{ "role": "user", "content": "hi" }] });
    let (status, answer) = platform.tenant(Method::POST, "/v1/chat/completions", Some(body)).await;
    (status, answer["error"]["code"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_provider_answers_and_its_failures_look_different_to_the_caller() {
    let upstream = Upstream::start();
    let models = ["mock-json", "mock-401", "mock-429", "mock-500", "mock-cut"];
    let mut settings = openai_instance(&upstream.url(), &models);
    settings.push('\n');
    let platform = Platform::start_with(Wanted { settings, ..Wanted::default() }).await;
    routed(&platform, &models).await;

    assert_eq!(status_and_code(&platform, "mock-json").await.0, StatusCode::OK);
    let refused = status_and_code(&platform, "mock-401").await;
    let limited = status_and_code(&platform, "mock-429").await;
    let broken = status_and_code(&platform, "mock-500").await;
    assert_eq!(limited.0, StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.0.is_server_error() && broken.0.is_server_error(), "{refused:?} {broken:?}");
    assert_ne!(refused.1, broken.1);
    platform.assert_books_balance();
}

/// TLS in front of an upstream, with a certificate for `localhost` by an authority that nobody knows.
struct Secured {
    port: u16,
    folder: TempDir,
    /// How many trusted the certificate.
    opened: Arc<AtomicUsize>,
    _connections: JoinSet<()>,
}

impl Secured {
    async fn start(upstream: &Upstream) -> Self {
        let folder = tempfile::Builder::new().prefix("qudao-tls-").tempdir().unwrap();
        open_for_all(folder.path());
        certify(folder.path());
        let file = |name: &str| folder.path().join(name);
        let chain: Result<Vec<_>, _> =
            CertificateDer::pem_file_iter(file("server.pem")).unwrap().collect();
        let key = PrivateKeyDer::from_pem_file(file("server.key")).unwrap();
        let config = ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(chain.unwrap(), key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let behind = upstream.address.clone();
        let opened = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&opened);
        let mut connections = JoinSet::new();
        connections.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((connection, _)) = listener.accept().await {
                let (acceptor, behind) = (acceptor.clone(), behind.clone());
                let count = Arc::clone(&count);
                open.spawn(async move {
                    // Who does not trust the certificate hangs up.
                    let Ok(mut secured) = acceptor.accept(connection).await else { return };
                    count.fetch_add(1, Ordering::SeqCst);
                    let mut plain = TcpStream::connect(behind).await.unwrap();
                    let _ = copy_bidirectional(&mut secured, &mut plain).await;
                });
            }
        });
        Self { port, folder, opened, _connections: connections }
    }

    fn authority(&self) -> PathBuf {
        self.folder.path().join("authority.pem")
    }

    fn url(&self, host: &str) -> String {
        format!("https://{host}:{}/v1", self.port)
    }

    /// A model in a child, one in the platform's process, and one at a name that is not certified.
    fn settings(&self) -> String {
        let child = openai_instance(&self.url("localhost"), &["child"]);
        let renamed =
            |settings: String, lines: &str| settings.replacen("name = \"openai\"", lines, 1);
        let here = openai_instance(&self.url("localhost"), &["here"]);
        let here = renamed(here, "name = \"here\"\nplacement = \"inproc\"");
        let other = openai_instance(&self.url("127.0.0.1"), &["other"]);
        let other = renamed(other, "name = \"other\"");
        format!("{child}\n{here}\n{other}\n")
    }
}

/// Makes an authority and a server's certificate by it.
fn certify(folder: &Path) {
    let openssl = |words: &[&str]| {
        let output = Command::new("openssl").current_dir(folder).args(words).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let authority = ["req", "-x509", "-days", "2", "-subj", "/CN=test authority"];
    let files = ["-keyout", "authority.key", "-out", "authority.pem"];
    openssl(&[&authority[..], &key, &files].concat());
    let request = ["req", "-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr"];
    openssl(&[&request[..], &key].concat());
    fs::write(folder.join("names"), "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n")
        .unwrap();
    let sign =
        ["x509", "-req", "-in", "server.csr", "-CA", "authority.pem", "-CAkey", "authority.key"];
    let files = ["-CAcreateserial", "-days", "1", "-extfile", "names", "-out", "server.pem"];
    openssl(&[&sign[..], &files].concat());
}

async fn routed(platform: &Platform, models: &[&str]) {
    let path = format!("/v1/tenants/{}/routes", platform.text("tenant_id"));
    let route = json!({ "name": "remote", "models": models });
    let (status, answer) = platform.tenant(Method::POST, &path, Some(route)).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
}

/// What the log says of a provider's failure.
fn why(platform: &Platform, instance: &str) -> String {
    let instance = format!("\"instance\":\"{instance}\"");
    let log = platform.log();
    let line = log.lines().find(|line| line.contains(&instance) && line.contains("failed"));
    line.unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_provider_behind_tls_answers_if_the_system_trusts_its_certificate() {
    let upstream = Upstream::start();
    let secured = Secured::start(&upstream).await;
    let authority = secured.authority().display().to_string();
    // An empty variable is none.
    let environment = vec![("SSL_CERT_FILE", authority), ("SSL_CERT_DIR", String::new())];
    let settings = secured.settings();
    let platform =
        Platform::start_with(Wanted { settings, environment, ..Wanted::default() }).await;
    routed(&platform, &["child", "here", "other"]).await;

    for model in ["child", "here"] {
        assert_eq!(status_and_code(&platform, model).await.0, StatusCode::OK, "{}", platform.log());
        let stream = platform.stream_completion(model, "hi").await.text().await.unwrap();
        assert!(stream.contains("word0 ") && stream.contains("[DONE]"), "{model}: {stream}");
    }
    let (status, _) = status_and_code(&platform, "other").await;
    assert!(status.is_server_error(), "{status}");
    assert!(why(&platform, "other").contains("not valid for name"), "{}", platform.log());
    platform.assert_books_balance();
}

#[tokio::test]
async fn a_provider_whose_certificate_nobody_trusts_is_sent_nothing() {
    let upstream = Upstream::start();
    let secured = Secured::start(&upstream).await;
    let settings = secured.settings();
    let platform = Platform::start_with(Wanted { settings, ..Wanted::default() }).await;
    routed(&platform, &["child", "here"]).await;

    for model in ["child", "here"] {
        let (status, _) = status_and_code(&platform, model).await;
        assert!(status.is_server_error(), "{model}: {status}");
    }
    for instance in ["openai", "here"] {
        assert!(why(&platform, instance).contains("UnknownIssuer"), "{}", platform.log());
    }
    assert_eq!(secured.opened.load(Ordering::SeqCst), 0);
    platform.assert_books_balance();
}
