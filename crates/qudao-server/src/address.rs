//! Where a request comes from. Many visitors may share an address, so what is limited by it has a
//! larger allowance than a visitor. A visitor's own would stop no script: the visitor's token is
//! made by the client, and a new token is a new allowance.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use actix_web::HttpRequest;

/// Where a request comes from. A proxy on this machine is believed about the client that it
/// serves; what any other peer says of itself is not.
pub(crate) fn client_address(request: &HttpRequest) -> IpAddr {
    site(peer_address(request))
}

/// The same, not cut to the part that counts as one.
pub(crate) fn peer_address(request: &HttpRequest) -> IpAddr {
    let peer = request.peer_addr().map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |peer| peer.ip());
    if !peer.to_canonical().is_loopback() {
        return peer.to_canonical();
    }
    // A proxy appends; what stands before its own entry is what the client claimed.
    let forwarded = request.headers().get_all("x-forwarded-for").last();
    let last = forwarded.and_then(|value| value.to_str().ok()?.rsplit(',').next());
    last.and_then(parse_address).unwrap_or(peer).to_canonical()
}

/// An address, with a port or without.
fn parse_address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    text.parse().ok().or_else(with_port)
}

/// One connection to the Internet gets 2⁶⁴ addresses of IPv6; they count as one.
pub(crate) fn site(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests;
