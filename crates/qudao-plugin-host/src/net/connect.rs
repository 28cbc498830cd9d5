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
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
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

/// Servers that are gone without a word are found out after a minute.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// What the system trusts. To read that takes milliseconds: it is done once.
///
/// # Errors
/// When the system's certificates cannot be used.
pub(super) fn trust() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions()?.with_platform_verifier()?;
    Ok(builder.with_no_client_auth())
}

/// Opens connections, with TLS where the address asks for it.
#[derive(Clone)]
pub(super) struct Connector {
    secured: HttpsConnector<HttpConnector<Names>>,
    /// For the name, the connection and its TLS together.
    limit: Duration,
}

impl Connector {
    pub(super) fn new(names: Names, trust: ClientConfig, limit: Duration) -> Self {
        let mut tcp = HttpConnector::new_with_resolver(names);
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEPALIVE));
        tcp.set_connect_timeout(Some(limit));
        let tls = HttpsConnectorBuilder::new().with_tls_config(trust);
        Self { secured: tls.https_or_http().enable_http1().wrap_connector(tcp), limit }
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
