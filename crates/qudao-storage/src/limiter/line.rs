//! How a decision finds the server that holds its buckets. One Redis holds them all; of a cluster,
//! whichever server is asked first names the right one, and is not asked about that slot again.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use redis::{
    Client, ConnectionAddr, IntoConnectionInfo as _, RedisError,
    aio::{ConnectionManager, ConnectionManagerConfig},
};

/// How many slots a cluster has ("Redis cluster specification").
const SLOTS: u16 = 16_384;

/// The servers of a cluster as far as they are known.
#[derive(Default)]
pub(super) struct Lines(Mutex<Known>);

#[derive(Default)]
struct Known {
    servers: HashMap<String, ConnectionManager>,
    /// Which of them holds a slot.
    slots: HashMap<u16, String>,
}

impl Lines {
    /// The server that holds the key, if a cluster has named one before.
    pub(super) fn of(&self, key: &str) -> Option<ConnectionManager> {
        let known = self.known();
        if known.slots.is_empty() {
            return None;
        }
        known.servers.get(known.slots.get(&slot(key))?).cloned()
    }

    /// The server that an answer names in place of its own, with the rights that one has.
    pub(super) fn follow(
        &self,
        answer: &RedisError,
        like: &Client,
        patience: Duration,
    ) -> Option<ConnectionManager> {
        let (address, slot) = answer.redirect_node()?;
        let mut known = self.known();
        if !known.servers.contains_key(address) {
            let (host, port) = address.rsplit_once(':')?;
            let address_of = ConnectionAddr::Tcp(host.to_owned(), port.parse().ok()?);
            let like = like.get_connection_info().clone();
            let client = Client::open(like.set_addr(address_of).into_connection_info().ok()?);
            let config = ConnectionManagerConfig::new()
                .set_number_of_retries(1)
                .set_connection_timeout(Some(patience))
                .set_response_timeout(Some(patience));
            let line = client.ok()?.get_connection_manager_lazy(config).ok()?;
            known.servers.insert(address.to_owned(), line);
        }
        known.slots.insert(slot, address.to_owned());
        known.servers.get(address).cloned()
    }

    /// The key's server does not answer: the next decision asks anew where it is.
    pub(super) fn forget(&self, key: &str) {
        let mut known = self.known();
        if let Some(address) = known.slots.remove(&slot(key)) {
            known.servers.remove(&address);
            known.slots.retain(|_, other| *other != address);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The slot of a key: what stands between its first braces decides.
fn slot(key: &str) -> u16 {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
    let hashed = tag.map(|(tag, _)| tag).filter(|tag| !tag.is_empty()).unwrap_or(key);
    crc16(hashed.as_bytes()) % SLOTS
}

/// CRC-16/XMODEM, as a cluster hashes its keys.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_what_a_cluster_says_it_is() {
        // From the specification, and from `CLUSTER KEYSLOT`.
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(slot("somekey"), 11_058);
        assert_eq!(slot("qd:{somekey}:rate:key:1"), slot("qd:{somekey}:rate:address:2"));
        assert_eq!(slot("foo{hash_tag}"), 2515);
    }
}
