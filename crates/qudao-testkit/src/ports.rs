//! Ports for what has to be told its own before it listens.

use std::{
    net::{Ipv4Addr, TcpListener},
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
};

/// Below the ports that the kernel gives out, and so are those 10000 above, where the nodes of a
/// cluster of Redis talk among themselves.
const PORTS: Range<u16> = 20_000..22_700;

/// Ports of loopback that nobody listens on at this moment, nor on those 10000 above. The kernel gives
/// them to nobody else before they are listened on.
///
/// # Panics
/// If there are not so many.
#[must_use]
pub fn free_ports(count: usize) -> Vec<u16> {
    static GIVEN: AtomicUsize = AtomicUsize::new(0);
    let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    // Tests that run at the same time begin at different ones.
    let process = usize::try_from(std::process::id()).unwrap_or_default();
    let begin = (8 * process + GIVEN.fetch_add(count, Ordering::Relaxed)) % PORTS.len();
    let ports = PORTS.cycle().skip(begin).take(PORTS.len());
    let found: Vec<u16> =
        ports.filter(|port| free(port) && free(&(port + 10_000))).take(count).collect();
    assert_eq!(found.len(), count, "there are no free ports");
    found
}
