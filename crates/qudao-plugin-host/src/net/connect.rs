//! How connections for exchanges are opened.

use std::{
    error::Error,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
    vec,
};

use http::Uri;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::{
    client::legacy::connect::{
        HttpConnector,
        dns::{GaiResolver, Name},
    },
    rt::TokioIo,
};
use qudao_egress::Guard;
use rustls::{ClientConfig, crypto::aws_lc_rs};
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio::{net::TcpStream, time::timeout};
use tower_service::Service;

type BoxError = Box<dyn Error + Send + Sync>;
type BoxFuture<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// A connection that is silent for so long is asked for a sign of life, three times at this distance.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(60), Duration::from_secs(15), 3);
/// A server that does not even acknowledge what was sent to it is given up after this time.
const UNHEARD: Duration = Duration::from_secs(30);

/// What the system trusts. To read that takes milliseconds: it is done once for all threads.
///
/// # Errors
/// When the system's certificates cannot be used.
pub(super) fn trust() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions()?.with_platform_verifier()?;
    let mut config = builder.with_no_client_auth();
    // Some gateways ask for a word.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Opens connections, with TLS where the address asks for it.
#[derive(Clone)]
pub(super) struct Connector {
    secured: HttpsConnector<HttpConnector<Names>>,
    /// For the name, the connection and its TLS together.
    limit: Duration,
}

impl Connector {
    /// Within `limit` each; `only_secured` refuses addresses without TLS.
    pub(super) fn new(
        names: Names,
        trust: ClientConfig,
        limit: Duration,
        only_secured: bool,
    ) -> Self {
        let mut tcp = HttpConnector::new_with_resolver(names);
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let (idle, interval, times) = KEEPALIVE;
        tcp.set_keepalive(Some(idle));
        tcp.set_keepalive_interval(Some(interval));
        tcp.set_keepalive_retries(Some(times));
        tcp.set_tcp_user_timeout(Some(UNHEARD));
        tcp.set_connect_timeout(Some(limit));
        let mut secured = HttpsConnector::from((tcp, trust));
        if only_secured {
            secured.enforce_https();
        }
        Self { secured, limit }
    }
}

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = BoxError;
    type Future = BoxFuture<Self::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.secured.poll_ready(cx)
    }

    fn call(&mut self, address: Uri) -> Self::Future {
        let (opening, limit) = (self.secured.call(address), self.limit);
        Box::pin(async move {
            let late = || io::Error::from(io::ErrorKind::TimedOut);
            timeout(limit, opening).await.unwrap_or_else(|_| Err(late().into()))
        })
    }
}

/// Who looks names up.
#[derive(Clone)]
pub(super) enum Names {
    /// The system, for addresses of the operator's.
    System(GaiResolver),
    /// The same, of which it keeps what is open to everybody.
    Guarded(Guard),
}

impl Service<Name> for Names {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = BoxFuture<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        match self {
            Self::System(system) => {
                let found = system.call(name);
                Box::pin(async move { Ok(found.await?.collect::<Vec<_>>().into_iter()) })
            }
            Self::Guarded(guard) => {
                let guard = guard.clone();
                Box::pin(async move { Ok(guard.addresses(name.as_str()).await?.into_iter()) })
            }
        }
    }
}
