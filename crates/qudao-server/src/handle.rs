//! The running server, and how it ends: nothing that a client waits for is cut off before the
//! drain's deadline.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{sync::watch, task::JoinHandle};

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is taken or not ours.
    #[error("cannot listen on {addr}")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The running server. Dropping it leaves the server running; [`Self::drain`] ends it.
pub struct ServerHandle {
    pub(crate) addrs: Vec<SocketAddr>,
    pub(crate) metrics_addr: Option<SocketAddr>,
    pub(crate) draining: watch::Sender<bool>,
    pub(crate) servers: Vec<(actix_web::dev::ServerHandle, JoinHandle<io::Result<()>>)>,
}

impl ServerHandle {
    /// Where it listens.
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// Where `/metrics` is served, if apart.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics_addr
    }

    /// Waits until the server ends, which it does by itself only on a failure.
    pub async fn stopped(&mut self) {
        let ends = self.servers.iter_mut().map(|(_, task)| task);
        let (ended, _, _) = futures_util::future::select_all(ends).await;
        if let Ok(Err(error)) = ended {
            tracing::error!(%error, "the HTTP server ended");
        }
    }

    /// Turns `/readyz` to 503 and goes on serving, for a node that has other work to finish first.
    pub fn announce_drain(&self) {
        // No receiver is left when no worker is: then there is nobody to tell either.
        let _ = self.draining.send(true);
    }

    /// Ends the server: `/readyz` turns 503, no connection is accepted any more, sockets and event
    /// streams are told to reconnect, and what is being answered is finished, up to `deadline`.
    /// `true` if everything was finished in time.
    pub async fn drain(mut self, deadline: Duration) -> bool {
        self.announce_drain();
        let graceful = async {
            for (server, _) in &self.servers {
                server.stop(true).await;
            }
        };
        let finished = tokio::time::timeout(deadline, graceful).await.is_ok();
        for (server, task) in &mut self.servers {
            if !finished {
                // The command is enough: whoever asked to end waits no longer for stuck clients.
                drop(server.stop(false));
                task.abort();
            }
        }
        finished
    }
}
