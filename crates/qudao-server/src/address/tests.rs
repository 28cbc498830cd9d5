use actix_web::test::TestRequest;

use super::*;

fn address(peer: &str, forwarded: &[&str]) -> String {
    let mut request = TestRequest::default().peer_addr(peer.parse().unwrap());
    for value in forwarded {
        request = request.append_header(("x-forwarded-for", *value));
    }
    client_address(&request.to_http_request()).to_string()
}

#[test]
fn a_stranger_cannot_choose_its_address_by_a_header() {
    assert_eq!(address("203.0.113.7:4000", &[]), "203.0.113.7");
    assert_eq!(address("203.0.113.7:4000", &["198.51.100.1"]), "203.0.113.7");
}

#[test]
fn a_proxy_on_this_machine_names_the_client_in_the_last_place() {
    assert_eq!(address("127.0.0.1:4000", &["198.51.100.1"]), "198.51.100.1");
    let claimed = &["10.0.0.1", "10.0.0.2, 198.51.100.1:9000"];
    assert_eq!(address("[::ffff:127.0.0.1]:4000", claimed), "198.51.100.1");
    assert_eq!(address("127.0.0.1:4000", &["unknown"]), "127.0.0.1");
    assert_eq!(address("127.0.0.1:4000", &[]), "127.0.0.1");
}

#[test]
fn all_addresses_of_one_ipv6_connection_are_one() {
    assert_eq!(address("[2001:db8:1:2:3:4:5:6]:4000", &[]), "2001:db8:1:2::");
    assert_eq!(address("[2001:db8:1:2:ffff::1]:4000", &[]), "2001:db8:1:2::");
    assert_eq!(address("[2001:db8:1:3::1]:4000", &[]), "2001:db8:1:3::");
    assert_eq!(address("[::ffff:203.0.113.7]:4000", &[]), "203.0.113.7");
}

proptest::proptest! {
    #[test]
    fn whatever_a_proxy_claims_is_an_address_or_the_proxy(claim in "[0-9a-f.:\\[\\], ]{0,60}|[ -~]{0,40}") {
        let found = address("127.0.0.1:9", &[&claim]);
        proptest::prop_assert!(found.parse::<IpAddr>().is_ok());
        proptest::prop_assert_eq!(address("192.0.2.7:9", &[&claim]), "192.0.2.7");
    }
}
