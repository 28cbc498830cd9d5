use std::net::Ipv4Addr;

use super::*;

/// Knows two names: one inside, one outside.
struct Two;

impl Lookup for Two {
    fn lookup(&self, name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            match name.as_str() {
                "inside.example.com" => {
                    tokio::time::sleep(Duration::from_millis(3)).await;
                    Ok(vec![IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7))])
                }
                "outside.example.com" => Ok(vec![IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8))]),
                _ => {
                    tokio::time::sleep(Duration::from_millis(90)).await;
                    Err(io::Error::other("no such name"))
                }
            }
        })
    }
}

async fn timed(name: &str) -> (Result<Vec<SocketAddr>, Refusal>, Duration) {
    let begun = Instant::now();
    let found = Guard::allowed(&Rules::default(), &Two, name).await;
    (found, begun.elapsed())
}

#[tokio::test(start_paused = true)]
async fn an_internal_name_and_a_name_that_does_not_exist_are_refused_alike_and_after_the_same_time()
{
    let inside = timed("inside.example.com").await;
    let nowhere = timed("nowhere.example.com").await;
    let local = timed("db.internal").await;
    assert_eq!(inside, (Err(Refusal::AddressNotPublic), REFUSAL_FLOOR));
    assert_eq!(nowhere, inside);
    assert_eq!(local, inside);
    let (outside, took) = timed("outside.example.com").await;
    assert_eq!(outside.unwrap(), [SocketAddr::from(([8, 8, 8, 8], 0))]);
    assert!(took < REFUSAL_FLOOR);
}

#[tokio::test]
async fn what_the_system_says_of_this_machine_is_dropped() {
    let lookup = SystemLookup::default();
    let found = lookup.lookup("localhost".to_owned()).await.unwrap();
    assert!(found.iter().any(IpAddr::is_loopback), "{found:?}");
    let loopback = vec!["127.0.0.0/8".parse().unwrap()];
    let open = Rules::new(loopback, false, vec![443]).unwrap();
    assert!(Guard::allowed(&open, &lookup, "localhost").await.is_ok());
    // A rule that allows some network and so every name, but not this address.
    let elsewhere = Rules::new(vec!["10.1.0.0/16".parse().unwrap()], false, vec![443]).unwrap();
    let refused = Guard::allowed(&elsewhere, &lookup, "localhost").await;
    assert_eq!(refused, Err(Refusal::AddressNotPublic));
}
