//! Names whose addresses change, differ, and hide behind other names.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, Method};
use qudao_egress::{Egress, EgressError, Limits, Rules};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::{
    host::{Answer, Host},
    server::{NameServer, Said, Said::Address, Said::Alias, Zone},
};

/// Stands for the public internet: the one address on this machine that the rules allow.
const OUTSIDE: &str = "127.0.0.2";
const INSIDE: &str = "127.0.0.1";

struct World {
    egress: Egress,
    names: NameServer,
    inside: Host,
    inside_v6: Host,
    outside: Host,
}

impl World {
    async fn new(zone: Zone) -> Self {
        let bye = "HTTP/1.1 200 OK\r\ncontent-length: 7\r\nconnection: close\r\n\r\noutside";
        let outside = Host::start(OUTSIDE, 0, vec![Answer::text(bye)]).await;
        let port = outside.addr.port();
        let secret = vec![Answer::ok("inside")];
        let inside = Host::start(INSIDE, port, secret.clone()).await;
        let inside_v6 = Host::start("::1", port, secret).await;
        let names = NameServer::start(zone).await;
        let allowed = vec![format!("{OUTSIDE}/32").parse().unwrap()];
        let rules = Rules::new(allowed, true, vec![port]).unwrap();
        let limits = Limits { total: Duration::from_secs(5), ..Limits::default() };
        let egress = Egress::with_lookup(rules, limits, Arc::new(names.clone())).unwrap();
        Self { egress, names, inside, inside_v6, outside }
    }

    async fn get(&self, name: &str) -> Result<Vec<u8>, EgressError> {
        let url = self.egress.url(&format!("http://{name}:{}/", self.outside.addr.port()))?;
        let answer = self.egress.request(Method::GET, &url, HeaderMap::new(), None).await?;
        Ok(answer.into_body())
    }

    /// Nobody knocked inside.
    fn untouched(&self) {
        assert_eq!(self.inside.connections(), 0);
        assert_eq!(self.inside_v6.connections(), 0);
    }
}

#[track_caller]
fn not_public(got: Result<Vec<u8>, EgressError>) {
    assert_eq!(got.unwrap_err().code(), "address_not_public");
}

#[tokio::test]
async fn a_name_that_moves_inside_between_two_answers_leads_nowhere() {
    let flips = vec![vec![Address(OUTSIDE)], vec![Address(INSIDE)]];
    let world = World::new(vec![("flip.example.com", flips)]).await;
    assert_eq!(world.get("flip.example.com").await.unwrap(), b"outside");
    assert_eq!(world.names.asked(), 1, "one look-up for one connection: nothing to rebind between");
    for _ in 0..3 {
        not_public(world.get("flip.example.com").await);
    }
    assert_eq!(world.names.asked(), 4);
    assert_eq!(world.outside.connections(), 1);
    world.untouched();
}

#[tokio::test]
async fn a_name_that_starts_inside_is_refused_until_it_is_outside() {
    let flips = vec![vec![Address(INSIDE)], vec![Address("::1")], vec![Address(OUTSIDE)]];
    let world = World::new(vec![("flip.example.com", flips)]).await;
    not_public(world.get("flip.example.com").await);
    not_public(world.get("flip.example.com").await);
    assert_eq!(world.get("flip.example.com").await.unwrap(), b"outside");
    world.untouched();
}

#[tokio::test]
async fn of_mixed_answers_only_the_public_addresses_are_dialled() {
    let mixed: Vec<Said> =
        [INSIDE, "10.0.0.1", OUTSIDE, "::1", "fd00::1", "::ffff:127.0.0.1"].map(Address).into();
    let zone = vec![
        ("mixed.example.com", vec![mixed]),
        ("inner.example.com", vec![vec![Address(INSIDE), Address("::1"), Address("10.0.0.1")]]),
    ];
    let world = World::new(zone).await;
    for _ in 0..8 {
        assert_eq!(world.get("mixed.example.com").await.unwrap(), b"outside");
    }
    not_public(world.get("inner.example.com").await);
    assert_eq!(world.outside.connections(), 8);
    world.untouched();
}

#[tokio::test]
async fn a_public_address_that_does_not_answer_is_not_replaced_by_an_internal_one() {
    let world =
        World::new(vec![("half.example.com", vec![vec![Address(OUTSIDE), Address(INSIDE)]])]).await;
    // The same name at a port where only the internal host listens.
    let port = world.inside.addr.port();
    let lonely = Host::start(INSIDE, 0, vec![]).await;
    let rules = Rules::new(
        vec![format!("{OUTSIDE}/32").parse().unwrap()],
        true,
        vec![port, lonely.addr.port()],
    );
    let lookup = Arc::new(world.names.clone());
    let egress = Egress::with_lookup(rules.unwrap(), Limits::default(), lookup).unwrap();
    let text = format!("http://half.example.com:{}/", lonely.addr.port());
    let url = egress.url(&text).unwrap();
    let got = egress.request(Method::GET, &url, HeaderMap::new(), None).await;
    assert_eq!(got.unwrap_err().code(), "unreachable");
    assert_eq!(lonely.connections(), 0);
}

#[tokio::test]
async fn a_chain_of_aliases_is_judged_by_where_it_ends() {
    let chain = |end: &'static str| {
        let last = Alias("c.example.net", vec![Address(end)]);
        vec![vec![Alias("b.example.net", vec![last])]]
    };
    let zone = vec![
        ("in.example.com", chain(INSIDE)),
        ("out.example.com", chain(OUTSIDE)),
        (
            "meta.example.com",
            vec![vec![Alias("metadata.google.internal", vec![Address("169.254.169.254")])]],
        ),
    ];
    let world = World::new(zone).await;
    not_public(world.get("in.example.com").await);
    not_public(world.get("meta.example.com").await);
    assert_eq!(world.get("out.example.com").await.unwrap(), b"outside");
    world.untouched();
}

#[tokio::test]
async fn https_is_spoken_with_the_address_that_was_judged_and_nothing_is_sent_to_a_stranger() {
    let listener = TcpListener::bind((OUTSIDE, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let names = NameServer::start(vec![("shop.example.com", vec![vec![Address(OUTSIDE)]])]).await;
    let allowed = vec![format!("{OUTSIDE}/32").parse().unwrap()];
    let rules = Rules::new(allowed, false, vec![port]).unwrap();
    let egress = Egress::with_lookup(rules, Limits::default(), Arc::new(names)).unwrap();
    let url = egress.url(&format!("https://shop.example.com:{port}/hook?token=t0ken")).unwrap();
    let asked = egress.request(Method::GET, &url, HeaderMap::new(), None);
    let heard = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut hello = vec![0; 4096];
        let length = stream.read(&mut hello).await.unwrap();
        // Somebody who cannot prove to be that host.
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
        hello.truncate(length);
        hello
    };
    let (got, hello) = tokio::join!(asked, heard);
    assert_eq!(got.unwrap_err().code(), "unreachable");
    assert_eq!(hello[0], 0x16, "a handshake of TLS");
    let said = String::from_utf8_lossy(&hello);
    assert!(said.contains("shop.example.com") && !said.contains("t0ken"));
}

#[tokio::test]
async fn internal_names_and_names_that_do_not_exist_are_refused_in_the_same_words() {
    let zone =
        vec![("db.example.com", vec![vec![Address(INSIDE)]]), ("empty.example.com", vec![vec![]])];
    let world = World::new(zone).await;
    let mut words = Vec::new();
    for name in ["db.example.com", "nothing.example.com", "empty.example.com", "10.0.0.1"] {
        words.push(world.get(name).await.unwrap_err().to_string());
    }
    words.dedup();
    assert_eq!(words.len(), 1, "{words:?}");
    assert!(!words[0].contains("127."), "{words:?}");
    world.untouched();
}

#[tokio::test]
async fn an_allowed_network_is_not_a_way_to_a_clouds_metadata() {
    let zone = vec![("meta.example.com", vec![vec![Address("169.254.169.254")]])];
    let names = NameServer::start(zone).await;
    let networks = ["169.254.0.0/16", "64:ff9b::/96", "fd00::/8", "10.0.0.0/8"];
    let networks = networks.map(|network| network.parse().unwrap()).to_vec();
    let rules = Rules::new(networks, false, vec![443]).unwrap();
    assert!(rules.allows("169.254.1.1".parse().unwrap()));
    assert!(rules.allows("64:ff9b::808:808".parse().unwrap()));
    assert!(rules.allows("64:ff9b::a00:1".parse().unwrap()), "both networks are allowed");
    assert!(!rules.allows("64:ff9b::7f00:1".parse().unwrap()));
    assert!(!rules.allows("64:ff9b::a9fe:a9fe".parse().unwrap()));
    let egress = Egress::with_lookup(rules, Limits::default(), Arc::new(names)).unwrap();
    for host in
        ["169.254.169.254", "meta.example.com", "metadata.google.internal", "[fd00:ec2::254]"]
    {
        let got = match egress.url(&format!("https://{host}/latest/meta-data/")) {
            Ok(url) => egress.request(Method::GET, &url, HeaderMap::new(), None).await,
            Err(refusal) => Err(refusal.into()),
        };
        assert_eq!(got.unwrap_err().code(), "address_not_public", "{host}");
    }
}
