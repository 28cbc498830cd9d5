//! Which addresses belong to the public internet.
//!
//! By IANA's registries of special-purpose addresses (IPv4 and IPv6, RFC 6890 and what updated
//! it), read on 2026-08-20. Where a registry says that a block may be reachable from everywhere
//! and nobody runs a service there, it is refused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// First address, length of the prefix, and what it is for.
const NOT_PUBLIC_V4: &[([u8; 4], u32)] = &[
    ([0, 0, 0, 0], 8),        // this network; Linux connects it to itself
    ([10, 0, 0, 0], 8),       // private
    ([100, 64, 0, 0], 10),    // carrier-grade NAT; Alibaba's metadata
    ([127, 0, 0, 0], 8),      // loopback
    ([168, 63, 129, 16], 32), // Azure's own services, from inside every machine there
    ([169, 254, 0, 0], 16),   // link-local; metadata of AWS, Azure, GCP, …
    ([172, 16, 0, 0], 12),    // private
    ([192, 0, 0, 0], 24),     // protocol assignments; Oracle's metadata
    ([192, 0, 2, 0], 24),     // documentation
    ([192, 31, 196, 0], 24),  // AS112
    ([192, 52, 193, 0], 24),  // AMT
    ([192, 88, 99, 0], 24),   // 6to4 relays
    ([192, 168, 0, 0], 16),   // private
    ([192, 175, 48, 0], 24),  // AS112
    ([198, 18, 0, 0], 15),    // benchmarks
    ([198, 51, 100, 0], 24),  // documentation
    ([203, 0, 113, 0], 24),   // documentation
    ([224, 0, 0, 0], 4),      // multicast
    ([240, 0, 0, 0], 4),      // reserved, and broadcast
];

/// Blocks inside `2000::/3` that are not public. Everything outside of it is not public either:
/// loopback, IPv4 in its mapped, compatible and translated forms (`64:ff9b::/96`,
/// `64:ff9b:1::/48`), `fc00::/7`, `fe80::/10`, multicast, `100::/64`, `5f00::/16`.
const NOT_PUBLIC_V6: &[([u16; 8], u32)] = &[
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), // protocol assignments: Teredo, benchmarks, ORCHID
    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), // documentation
    ([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), // 6to4: an IPv4 address in disguise
    ([0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0], 48), // AS112
    ([0x3ffe, 0, 0, 0, 0, 0, 0, 0], 16), // 6bone, given back
    ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), // documentation
];

/// Where clouds tell a machine its secrets. Refused although an operator allows the network.
const METADATA: &[IpAddr] = &[
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)), // tasks of AWS ECS
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)), // pods of AWS EKS
    IpAddr::V4(Ipv4Addr::new(169, 254, 0, 23)),  // Tencent
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)), // Alibaba
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)), // Azure
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),   // Oracle
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)), // AWS
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)), // pods of AWS EKS
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)), // GCP
];

/// Whether an address belongs to the public internet, and to nothing that only looks like it.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let bits = address.to_bits();
            !NOT_PUBLIC_V4.iter().any(|(first, length)| {
                let first = Ipv4Addr::from(*first).to_bits();
                (bits ^ first).leading_zeros() >= *length
            })
        }
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            // 2000::/3 is all that is given out.
            bits >> 125 == 1
                && !NOT_PUBLIC_V6.iter().any(|(first, length)| {
                    let first = Ipv6Addr::from(*first).to_bits();
                    (bits ^ first).leading_zeros() >= *length
                })
        }
    }
}

/// Whether a cloud's metadata is served at an address.
pub(crate) fn is_metadata(address: IpAddr) -> bool {
    METADATA.contains(&address)
}

/// The IPv4 address that is reached through an IPv6 one: mapped, compatible, translated by NAT64,
/// or 6to4.
pub(crate) fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let tail = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match address.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] if high != 0 || low > 1 => Some(tail(high, low)),
        [0, 0, 0, 0, 0xffff, 0, high, low] => Some(tail(high, low)),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(tail(high, low)),
        [0x64, 0xff9b, 1, _, _, _, high, low] => Some(tail(high, low)),
        [0x2002, high, low, ..] => Some(tail(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
