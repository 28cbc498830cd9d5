//! The table of hostile addresses: what each got, and that nobody knocked inside.
//!
//! `cargo nextest run -p qudao-egress --no-capture table` prints it.

use std::sync::Arc;

use http::{HeaderMap, Method};
use qudao_egress::{Egress, EgressError, Limits, Rules};

use crate::{
    host::Host,
    server::{NameServer, Said},
};

/// `P` is the port of the internal service. The rules allow http and that port, so that nothing
/// but the rule in question stands between the address and the service.
const TABLE: &[(&str, &str)] = &[
    ("http://127.0.0.1:P/", "address_not_public"),
    ("http://127.0.0.1.:P/", "address_not_public"),
    ("http://127.1:P/", "address_not_public"),
    ("http://127.0.1:P/", "address_not_public"),
    ("http://2130706433:P/", "address_not_public"),
    ("http://0x7f000001:P/", "address_not_public"),
    ("http://0x7f.0.0.1:P/", "address_not_public"),
    ("http://0x7f.1:P/", "address_not_public"),
    ("http://017700000001:P/", "address_not_public"),
    ("http://0177.0.0.1:P/", "address_not_public"),
    ("http://0177.0.0.01:P/", "address_not_public"),
    ("http://00000177.0.0.1:P/", "address_not_public"),
    ("http://0x7f.0x0.0x0.0x1:P/", "address_not_public"),
    ("http://0x7F.0.0.0x01:P/", "address_not_public"),
    ("http://127.0x0.0.1:P/", "address_not_public"),
    ("http://0:P/", "address_not_public"),
    ("http://0.0.0.0:P/", "address_not_public"),
    ("http://0x0:P/", "address_not_public"),
    ("http://127.255.255.254:P/", "address_not_public"),
    ("http://127.0.0.2:P/", "address_not_public"),
    ("http://10.0.0.1/", "address_not_public"),
    ("http://172.16.0.1/", "address_not_public"),
    ("http://192.168.1.1/", "address_not_public"),
    ("http://100.64.0.1/", "address_not_public"),
    ("http://100.100.100.200/latest/meta-data/", "address_not_public"),
    ("http://169.254.169.254/latest/meta-data/", "address_not_public"),
    ("http://2852039166/latest/meta-data/", "address_not_public"),
    ("http://0xa9fea9fe/", "address_not_public"),
    ("http://0251.0376.0251.0376/", "address_not_public"),
    ("http://169.254.43518/", "address_not_public"),
    ("http://169.254.170.2/v2/credentials", "address_not_public"),
    ("http://168.63.129.16/machine/", "address_not_public"),
    ("http://192.0.0.192/opc/v2/", "address_not_public"),
    ("http://192.0.2.1/", "address_not_public"),
    ("http://198.18.0.1/", "address_not_public"),
    ("http://198.51.100.1/", "address_not_public"),
    ("http://203.0.113.1/", "address_not_public"),
    ("http://224.0.0.1/", "address_not_public"),
    ("http://240.0.0.1/", "address_not_public"),
    ("http://255.255.255.255/", "address_not_public"),
    ("http://0.1.2.3/", "address_not_public"),
    ("http://256.256.256.256/", "url_malformed"),
    ("http://127.0.0.256/", "url_malformed"),
    ("http://4294967296/", "url_malformed"),
    ("http://0x100000000/", "url_malformed"),
    ("http://127.0.0.0.1/", "url_malformed"),
    ("http://1.2.3.4.5/", "url_malformed"),
    ("http://0xg.1/", "url_malformed"),
    ("http://09.0.0.1/", "url_malformed"),
    ("http://0x08080808/", "url_malformed"),
    ("http://8.8.2056/", "url_malformed"),
    ("http://010.8.8.8/", "url_malformed"),
    ("http://134744072/", "url_malformed"),
    ("http://08.8.8.8/", "url_malformed"),
    ("http://[2606:4700:4700:0::1111]/", "url_malformed"),
    ("http://[2606:4700:4700::0:1111]/", "url_malformed"),
    ("http://[::1]:P/", "address_not_public"),
    ("http://[0:0:0:0:0:0:0:1]:P/", "address_not_public"),
    ("http://[0000:0000:0000:0000:0000:0000:0000:0001]:P/", "address_not_public"),
    ("http://[::]:P/", "address_not_public"),
    ("http://[::127.0.0.1]:P/", "address_not_public"),
    ("http://[::7f00:1]:P/", "address_not_public"),
    ("http://[::ffff:127.0.0.1]:P/", "address_not_public"),
    ("http://[::ffff:7f00:1]:P/", "address_not_public"),
    ("http://[::FFFF:7F00:0001]:P/", "address_not_public"),
    ("http://[::ffff:0:127.0.0.1]:P/", "address_not_public"),
    ("http://[::ffff:169.254.169.254]/", "address_not_public"),
    ("http://[::ffff:8.8.8.8]/", "address_not_public"),
    ("http://[64:ff9b::127.0.0.1]:P/", "address_not_public"),
    ("http://[64:ff9b::a9fe:a9fe]/", "address_not_public"),
    ("http://[64:ff9b:1::7f00:1]:P/", "address_not_public"),
    ("http://[2002:7f00:1::]:P/", "address_not_public"),
    ("http://[2002:a9fe:a9fe::]/", "address_not_public"),
    ("http://[2001:0:7f00:1::]:P/", "address_not_public"),
    ("http://[2001:db8::1]/", "address_not_public"),
    ("http://[3fff::1]/", "address_not_public"),
    ("http://[2001:2::1]/", "address_not_public"),
    ("http://[100::1]/", "address_not_public"),
    ("http://[fc00::1]/", "address_not_public"),
    ("http://[fd00:ec2::254]/latest/meta-data/", "address_not_public"),
    ("http://[fd20:ce::254]/", "address_not_public"),
    ("http://[fe80::1]:P/", "address_not_public"),
    ("http://[fec0::1]/", "address_not_public"),
    ("http://[ff02::1]/", "address_not_public"),
    ("http://[5f00::1]/", "address_not_public"),
    ("http://[fe80::1%25eth0]:P/", "url_malformed"),
    ("http://[fe80::1%eth0]:P/", "url_malformed"),
    ("http://[::1%25lo]:P/", "url_malformed"),
    ("http://[::1]]:P/", "url_malformed"),
    ("http://[::1", "url_malformed"),
    ("http://[127.0.0.1]:P/", "url_malformed"),
    ("http://[::1]evil.example.com:P/", "url_malformed"),
    ("http://::1:P/", "url_malformed"),
    ("http://[v1.127]/", "url_malformed"),
    ("http://[]:P/", "url_malformed"),
    ("http://localhost:P/", "address_not_public"),
    ("http://LOCALHOST:P/", "address_not_public"),
    ("http://localhost.:P/", "address_not_public"),
    ("http://a.localhost:P/", "address_not_public"),
    ("http://localhost.localdomain:P/", "address_not_public"),
    ("http://printer.local/", "address_not_public"),
    ("http://db.internal/", "address_not_public"),
    ("http://router.home.arpa/", "address_not_public"),
    ("http://intranet/", "address_not_public"),
    ("http://kubernetes.default.svc.cluster.local/", "address_not_public"),
    ("http://metadata.google.internal/computeMetadata/v1/", "address_not_public"),
    ("http://metadata.google.internal./", "address_not_public"),
    ("http://metadata/", "address_not_public"),
    ("http://metadata.goog/", "address_not_public"),
    ("http://instance-data/latest/meta-data/", "address_not_public"),
    ("http://1.0.0.127.in-addr.arpa/", "address_not_public"),
    ("http://host.docker.internal:P/", "address_not_public"),
    ("http://x.onion/", "address_not_public"),
    ("http://１２７.０.０.１:P/", "address_not_public"),
    ("http://127。0。0。1:P/", "address_not_public"),
    ("http://127．0．0．1:P/", "address_not_public"),
    ("http://127｡0｡0｡1:P/", "address_not_public"),
    ("http://①②⑦.⓪.⓪.①:P/", "address_not_public"),
    ("http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ:P/", "address_not_public"),
    ("http://loc\u{ad}alhost:P/", "address_not_public"),
    ("http://𝟏𝟐𝟕.𝟎.𝟎.𝟏:P/", "address_not_public"),
    ("http://\u{200b}localhost:P/", "address_not_public"),
    ("http://⑯⑨。②⑤④。⑯⑨。②⑤④:P/", "address_not_public"),
    ("http://ⓔxample.com/", "url_malformed"),
    ("http://example。com/", "url_malformed"),
    ("http://ex\u{ad}ample.com/", "url_malformed"),
    ("http://exam\u{202e}ple.com/", "url_malformed"),
    ("http://[::①]:P/", "url_malformed"),
    ("http://ﬀ\u{feff}.example.com%2f/", "url_malformed"),
    ("http://%31%32%37.0.0.1:P/", "address_not_public"),
    ("http://127%2e0%2e0%2e1:P/", "address_not_public"),
    ("http://%6cocalhost:P/", "address_not_public"),
    ("http://%6c%6f%63%61%6c%68%6f%73%74:P/", "address_not_public"),
    ("http://ex%61mple.com/", "url_malformed"),
    ("http://127.0.0.1%00.example.com:P/", "url_malformed"),
    ("http://127.0.0.1%0d%0a.example.com:P/", "url_malformed"),
    ("http://example.com%2f.127.0.0.1:P/", "url_malformed"),
    ("http://example.com%23.127.0.0.1:P/", "url_malformed"),
    ("http://127.0.0.1%2523:P/", "url_malformed"),
    ("http://%5b::1%5d:P/", "url_malformed"),
    ("http://a\\@127.0.0.1:P/", "url_malformed"),
    ("http://127.0.0.1:P\\@example.com/", "url_malformed"),
    ("http:\\\\127.0.0.1:P\\", "url_malformed"),
    ("http:/\\127.0.0.1:P/", "url_malformed"),
    ("http://exam\tple.com/", "url_malformed"),
    ("ht\ntp://127.0.0.1:P/", "url_malformed"),
    ("\u{1}http://127.0.0.1:P/", "url_malformed"),
    (" http://127.0.0.1:P/", "url_malformed"),
    ("http://127.0.0.1:P/ ", "url_malformed"),
    ("http://127.0.0.1 :P/", "url_malformed"),
    ("http://127.0.0.1:P\r\nHost: x/", "url_malformed"),
    ("http://example.com\u{0}.127.0.0.1:P/", "url_malformed"),
    ("http://127.0.0.1\u{a0}:P/", "url_malformed"),
    ("http://example.com\u{2028}/", "url_malformed"),
    ("http://example.com/#@127.0.0.1/", "url_malformed"),
    ("http://example.com#@127.0.0.1:P/", "url_malformed"),
    ("http://a..example.com/", "url_malformed"),
    ("http://exa,mple.com/", "url_malformed"),
    ("http://exa!mple.com/", "url_malformed"),
    ("http://$(id).example.com/", "url_malformed"),
    ("http://{127.0.0.1}.example.com/", "url_malformed"),
    ("http://example.com:80:P/", "url_malformed"),
    ("http:example.com", "url_malformed"),
    ("http:/example.com/", "url_malformed"),
    ("http:///example.com/", "url_malformed"),
    ("http:////example.com/", "url_malformed"),
    ("//127.0.0.1:P/", "url_malformed"),
    ("127.0.0.1:P", "url_malformed"),
    ("", "url_malformed"),
    ("http://", "url_malformed"),
    ("http://:P/", "url_malformed"),
    ("http://?x/", "url_malformed"),
    ("http://example.com:+80/", "url_malformed"),
    ("http://example.com:8\u{ff10}/", "url_malformed"),
    ("http://127.0.0.1#@example.com/", "address_not_public"),
    ("http://127.0.0.1:P#@example.com/", "address_not_public"),
    ("http://127.0.0.1:P?@example.com/", "address_not_public"),
    ("http://127.0.0.1:P/@example.com/", "address_not_public"),
    ("http:127.0.0.1:P/", "address_not_public"),
    ("http:/127.0.0.1:P/", "address_not_public"),
    ("http:///127.0.0.1:P/", "address_not_public"),
    ("HTTP://127.0.0.1:P/", "address_not_public"),
    ("http://example.com@127.0.0.1:P/", "has_user_info"),
    ("http://example.com:80@127.0.0.1:P/", "has_user_info"),
    ("http://a:b@example.com/", "has_user_info"),
    ("http://a@b@127.0.0.1:P/", "has_user_info"),
    ("http://example.com%23@127.0.0.1:P/", "has_user_info"),
    ("http://127.0.0.1:P@example.com/", "has_user_info"),
    ("http://:@127.0.0.1:P/", "address_not_public"),
    ("http://example.com%40@127.0.0.1/", "has_user_info"),
    ("http://@127.0.0.1:P/", "address_not_public"),
    ("http://@example.com/", "url_malformed"),
    ("ftp://127.0.0.1:P/", "scheme_not_allowed"),
    ("file:///etc/passwd", "scheme_not_allowed"),
    ("gopher://127.0.0.1:P/_x", "scheme_not_allowed"),
    ("dict://127.0.0.1:P/", "scheme_not_allowed"),
    ("ldap://127.0.0.1:P/", "scheme_not_allowed"),
    ("tftp://127.0.0.1/", "scheme_not_allowed"),
    ("jar:http://127.0.0.1:P!/", "scheme_not_allowed"),
    ("data:text/plain,x", "scheme_not_allowed"),
    ("javascript:alert(1)", "scheme_not_allowed"),
    ("ws://127.0.0.1:P/", "scheme_not_allowed"),
    ("unix:/var/run/docker.sock", "scheme_not_allowed"),
    ("netdoc:///etc/passwd", "scheme_not_allowed"),
    ("view-source:http://127.0.0.1:P/", "scheme_not_allowed"),
    ("blob:http://127.0.0.1:P/x", "scheme_not_allowed"),
    ("about:blank", "scheme_not_allowed"),
    ("http://example.com:22/", "port_not_allowed"),
    ("http://example.com:6379/", "port_not_allowed"),
    ("http://example.com:5432/", "port_not_allowed"),
    ("http://8.8.8.8:25/", "port_not_allowed"),
    ("http://example.com:0/", "port_not_allowed"),
];

/// Names that a tenant's name server leads inside.
const NAMES: &[(&str, &str)] = &[
    ("v4.example.com", "127.0.0.1"),
    ("v6.example.com", "::1"),
    ("mapped.example.com", "::ffff:127.0.0.1"),
    ("nat64.example.com", "64:ff9b::7f00:1"),
    ("sixtofour.example.com", "2002:7f00:1::"),
    ("zero.example.com", "0.0.0.0"),
    ("private.example.com", "10.0.0.1"),
    ("metadata.example.com", "169.254.169.254"),
    ("127.0.0.1.nip.example.com", "127.0.0.1"),
    ("xn--bcher-kva.example.com", "127.0.0.1"),
];

async fn outcome(egress: &Egress, text: &str) -> String {
    let url = match egress.url(text) {
        Ok(url) => url,
        Err(refusal) => return refusal.code().to_owned(),
    };
    match egress.request(Method::GET, &url, HeaderMap::new(), None).await {
        Ok(answer) => format!("answered {}", answer.status()),
        Err(error) => error.code().to_owned(),
    }
}

#[tokio::test]
async fn no_hostile_address_of_the_table_reaches_an_internal_service() {
    let inside = Host::start("127.0.0.1", 0, vec![]).await;
    let port = inside.addr.port();
    let inside_v6 = Host::start("::1", port, vec![]).await;
    let zone = NAMES.iter().map(|(name, to)| (*name, vec![vec![Said::Address(to)]])).collect();
    let names = Arc::new(NameServer::start(zone).await);
    let rules = Rules::new(Vec::new(), true, vec![80, 443, port]).unwrap();
    let egress = Egress::with_lookup(rules, Limits::default(), names).unwrap();

    let mut wrong = Vec::new();
    let mut rows = TABLE.len();
    println!("{:<58} {}", "address", "got");
    for (template, wanted) in TABLE {
        let text = template.replace(":P", &format!(":{port}"));
        let got = outcome(&egress, &text).await;
        println!("{:<58} {got}", template.escape_debug().to_string());
        if got != *wanted {
            wrong.push(format!("{template}: {got}, not {wanted}"));
        }
    }
    let named = NAMES.iter().map(|(name, to)| {
        let egress = &egress;
        async move { (name, to, outcome(egress, &format!("http://{name}:{port}/")).await) }
    });
    for (name, to, got) in futures_util::future::join_all(named).await {
        rows += 1;
        println!("{:<58} {got}", format!("http://{name}:P/  ->  {to}"));
        if got != "address_not_public" {
            wrong.push(format!("{name}: {got}"));
        }
    }
    println!("{rows} addresses, {} connections inside", inside.connections());
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(inside.connections() + inside_v6.connections(), 0);

    // The service is there: who is allowed gets through.
    let loopback = vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
    let open = Egress::new(Rules::new(loopback, true, vec![port]).unwrap(), Limits::default());
    let open = open.unwrap();
    for host in ["127.0.0.1", "[::1]", "localhost"] {
        assert_eq!(outcome(&open, &format!("http://{host}:{port}/")).await, "answered 200 OK");
    }
    assert_eq!(inside.connections() + inside_v6.connections(), 3);
}

#[test]
fn by_default_only_https_at_two_ports_is_requested() {
    let rules = Rules::default();
    for (text, wanted) in [
        ("https://example.com/", Ok(())),
        ("https://example.com:443/hook?x=1", Ok(())),
        ("https://EXAMPLE.com:8443/", Ok(())),
        ("https://example.com./", Ok(())),
        ("https://bücher.example.com/", Ok(())),
        ("https://例え.example.com/", Ok(())),
        ("https://xn--r8jz45g.example.com/", Ok(())),
        ("https://a_b.example.com/", Ok(())),
        ("https://8.8.8.8/", Ok(())),
        ("https://[2606:4700:4700::1111]/", Ok(())),
        ("https://example.com/%00?u=http://127.0.0.1/", Ok(())),
        ("http://example.com/", Err("scheme_not_allowed")),
        ("https://example.com:80/", Err("port_not_allowed")),
        ("https://example.com:22/", Err("port_not_allowed")),
        ("https://example.com:6379/", Err("port_not_allowed")),
        ("https://example.com:0/", Err("port_not_allowed")),
        ("https://example.com:65536/", Err("url_malformed")),
    ] {
        let got = qudao_egress::PublicUrl::parse(text, &rules);
        assert_eq!(got.map(drop).map_err(qudao_egress::Refusal::code), wanted, "{text}");
    }
    let long = format!("https://example.com/{}", "a".repeat(2048));
    let got = qudao_egress::PublicUrl::parse(&long, &rules);
    assert_eq!(got.unwrap_err().code(), "url_too_long");
}

#[test]
fn rules_that_would_allow_everything_or_nothing_are_refused() {
    for network in ["0.0.0.0/0", "::/0"] {
        let all = vec![network.parse().unwrap()];
        assert!(Rules::new(all, false, vec![443]).is_err(), "{network}");
    }
    assert!(Rules::new(Vec::new(), false, Vec::new()).is_err());
    assert!(Rules::new(Vec::new(), false, vec![0]).is_err());
    assert!(Rules::new(Vec::new(), true, vec![443]).is_err());
}

#[tokio::test]
async fn an_address_that_other_rules_read_is_judged_again() {
    let inside = Host::start("127.0.0.1", 0, vec![]).await;
    let port = inside.addr.port();
    let open = Rules::new(vec!["127.0.0.0/8".parse().unwrap()], true, vec![port]).unwrap();
    let url = qudao_egress::PublicUrl::parse(&format!("http://{}/", inside.addr), &open).unwrap();
    let strict = Rules::new(Vec::new(), true, vec![port]).unwrap();
    let strict = Egress::new(strict, Limits::default()).unwrap();
    let got = strict.request(Method::GET, &url, HeaderMap::new(), None).await;
    assert!(matches!(got, Err(EgressError::Refused(_))));
    assert_eq!(inside.connections(), 0);
}
