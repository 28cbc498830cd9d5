//! Connections for what is not HTTP, such as sockets that stay open.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{net::TcpStream, time::timeout};
use url::Host;

use crate::{Egress, PublicUrl, Refusal, resolve::Guard};

/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 4;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The address is refused; nothing was dialled.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Nobody answered.
    #[error("the host could not be reached")]
    Unreachable(#[source] io::Error),
}

impl Egress {
    /// A bare connection to the host and port of an address, judged as for a request: by the address
    /// that is dialled. TLS is the caller's, and no word of HTTP is said.
    ///
    /// # Errors
    /// [`DialError`].
    pub async fn dial(&self, url: &PublicUrl) -> Result<TcpStream, DialError> {
        let url = url.as_url();
        // It may have been read by other rules.
        self.rules().judge(url)?;
        let port = url.port_or_known_default().ok_or(Refusal::PortNotAllowed)?;
        let addresses = match url.host() {
            Some(Host::Ipv4(address)) => vec![SocketAddr::new(address.into(), port)],
            Some(Host::Ipv6(address)) => vec![SocketAddr::new(address.into(), port)],
            Some(Host::Domain(name)) => Guard::allowed(self.rules(), self.lookup(), name).await?,
            None => return Err(Refusal::Malformed.into()),
        };
        let patience: Duration = self.connect_limit();
        let mut last = io::Error::from(io::ErrorKind::TimedOut);
        for address in addresses.into_iter().take(ADDRESSES_MAX) {
            let connecting = TcpStream::connect(SocketAddr::new(address.ip(), port));
            match timeout(patience, connecting).await.map_err(io::Error::from).flatten() {
                Ok(stream) => {
                    stream.set_nodelay(true).map_err(DialError::Unreachable)?;
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(DialError::Unreachable(last))
    }
}
