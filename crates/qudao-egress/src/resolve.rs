//! Names become addresses here, and nowhere else: what this leaves is what is dialled.

use std::{
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
    sync::Arc,
    time::Duration,
};

use futures_util::future::BoxFuture;
use reqwest::{
    ClientBuilder,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep_until},
};

use crate::{Refusal, Rules};

/// A name without a public address is refused after this time at the earliest, so that the time
/// does not tell an internal name that exists from one that does not.
const REFUSAL_FLOOR: Duration = Duration::from_millis(400);
/// The system's resolver blocks a thread; slow name servers of tenants must not take them all.
const LOOKUPS: usize = 64;

/// Looks names up.
pub trait Lookup: Send + Sync + 'static {
    /// Every address of a name.
    fn lookup(&self, name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;
}

/// The resolver of the operating system: `/etc/hosts`, then the name servers.
#[derive(Debug, Clone)]
pub struct SystemLookup(Arc<Semaphore>);

impl Default for SystemLookup {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(LOOKUPS)))
    }
}

impl Lookup for SystemLookup {
    fn lookup(&self, name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let places = Arc::clone(&self.0);
        Box::pin(async move {
            let place = places.acquire_owned().await.map_err(io::Error::other)?;
            let found = tokio::task::spawn_blocking(move || {
                // Held by the thread: it goes on when nobody waits for it any more.
                let _place = place;
                let found = (name.as_str(), 0).to_socket_addrs()?;
                Ok(found.map(|addr| addr.ip()).collect())
            });
            found.await.map_err(io::Error::other)?
        })
    }
}

/// A resolver that drops what the rules do not allow. For clients of other libraries than the one of
/// [`crate::Egress`], such as one that makes the exchanges of plugins.
///
/// A literal address does not pass a resolver, so such a client may only be given the value of a
/// [`crate::PublicUrl`] that was parsed by the same rules.
#[derive(Clone)]
pub struct Guard {
    rules: Arc<Rules>,
    lookup: Arc<dyn Lookup>,
}

impl Guard {
    /// Asks `lookup`, and keeps what `rules` allow.
    pub fn new(rules: &Rules, lookup: Arc<dyn Lookup>) -> Self {
        Self { rules: Arc::new(rules.clone()), lookup }
    }

    /// The addresses of a name that may be dialled, with port 0.
    ///
    /// # Errors
    /// [`Refusal::AddressNotPublic`] if there is none.
    pub async fn addresses(&self, name: &str) -> Result<Vec<SocketAddr>, Refusal> {
        Self::allowed(&self.rules, &*self.lookup, name).await
    }

    /// [`Self::addresses`] for whoever has the rules at hand.
    pub(crate) async fn allowed(
        rules: &Rules,
        lookup: &dyn Lookup,
        name: &str,
    ) -> Result<Vec<SocketAddr>, Refusal> {
        let refused_at = Instant::now() + REFUSAL_FLOOR;
        let mut found = Vec::new();
        if rules.allows_name(name) {
            found = lookup.lookup(name.to_owned()).await.unwrap_or_default();
        }
        let allowed = found.into_iter().filter(|address| rules.allows(*address));
        // The port is the address's own; the client fills it in.
        let allowed: Vec<_> = allowed.map(|address| SocketAddr::new(address, 0)).collect();
        if allowed.is_empty() {
            sleep_until(refused_at).await;
            return Err(Refusal::AddressNotPublic);
        }
        Ok(allowed)
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let allowed = guard.addresses(name.as_str()).await?;
            let allowed: Addrs = Box::new(allowed.into_iter());
            Ok(allowed)
        })
    }
}

/// A client that dials what the rules allow and follows nothing.
pub(crate) fn guard(
    builder: ClientBuilder,
    rules: &Rules,
    lookup: Arc<dyn Lookup>,
) -> ClientBuilder {
    builder
        .dns_resolver(Guard::new(rules, lookup))
        .https_only(rules.https_only())
        .redirect(redirect::Policy::none())
        .no_proxy()
        .referer(false)
        .no_gzip()
        .no_brotli()
        .no_deflate()
        .no_zstd()
}

#[cfg(test)]
mod tests;
