//! Connections to mail servers that a tenant named. They are judged like every address that a
//! tenant chose: by the address that is dialled, after the one look-up of its name.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use lettre::transport::smtp::client::AsyncTokioStream;
use qudao_egress::{Lookup, Rules, SystemLookup, is_public};
use rustls::{ClientConfig, pki_types::ServerName};
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// What mail servers listen at. Others are dialled only where the operator allows the network.
const PORTS: [u16; 6] = [25, 465, 587, 2525, 143, 993];
const CONNECT: Duration = Duration::from_secs(10);
/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 4;

/// Opens connections to mail servers, by the operator's rules.
#[derive(Clone)]
pub struct Dialer {
    /// Who may be dialled; everybody whom the operator names, without rules.
    rules: Option<Arc<Rules>>,
    lookup: Arc<dyn Lookup>,
    tls: Arc<ClientConfig>,
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer").field("rules", &self.rules).finish_non_exhaustive()
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// It may not be dialled. Nothing is told of what is there.
    #[error(
        "this mail server may not be connected to: it has no public address, or the port is none of mail"
    )]
    Refused,
    /// It did not answer, or not in TLS that can be trusted.
    #[error("no connection to the mail server: {0}")]
    Failed(io::Error),
}

impl From<io::Error> for DialError {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

impl Dialer {
    /// Dials what these rules allow, looking names up as the operating system does. The rules'
    /// ports are those of web servers and do not count here.
    ///
    /// # Errors
    /// When the TLS library cannot be set up.
    pub fn new(rules: Rules) -> Result<Self, rustls::Error> {
        Self::with(Some(Arc::new(rules)))
    }

    /// Dials the server that the operator set, wherever it is.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn of_operator() -> Result<Self, rustls::Error> {
        Self::with(None)
    }

    fn with(rules: Option<Arc<Rules>>) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_platform_verifier()?
            .with_no_client_auth();
        let lookup = Arc::new(SystemLookup::default());
        Ok(Self { rules, lookup, tls: Arc::new(tls) })
    }

    /// A connection without TLS.
    pub(super) async fn plain(&self, host: &str, port: u16) -> Result<Wire, DialError> {
        let addresses = match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => self.lookup.lookup(host.to_owned()).await.unwrap_or_default(),
        };
        let may = |address: &IpAddr| {
            self.rules.as_ref().is_none_or(|rules| {
                rules.allows(*address) && (PORTS.contains(&port) || !is_public(*address))
            })
        };
        let mut last = DialError::Refused;
        for address in addresses.into_iter().filter(may).take(ADDRESSES_MAX) {
            let connecting = TcpStream::connect(SocketAddr::new(address, port));
            match timeout(CONNECT, connecting).await.map_err(io::Error::from).flatten() {
                Ok(stream) => return Ok(Wire::Plain(stream)),
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    }

    /// TLS on a connection, for the server of this name.
    pub(crate) async fn secure(&self, wire: Wire, host: &str) -> Result<Wire, DialError> {
        let Wire::Plain(stream) = wire else { return Ok(wire) };
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let connecting = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream);
        let stream = timeout(CONNECT, connecting).await.map_err(io::Error::from).flatten()?;
        Ok(Wire::Tls(Box::new(stream)))
    }
}

/// A connection, with or without TLS.
#[derive(Debug)]
pub(crate) enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncTokioStream for Wire {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Plain(stream) => stream.peer_addr(),
            Self::Tls(stream) => stream.get_ref().0.peer_addr(),
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
