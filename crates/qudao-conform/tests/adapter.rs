//! The kit in the platform's place: green against an adapter that behaves, and red for each case in
//! which one misbehaves.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use qudao_conform::{
    adapter::{Config, Platform},
    case::{CASES, run},
    client::Keys,
    reference::{PATIENCE, Reference},
};
use qudao_pcp::{CaseReport, Outcome, PrivateKey, Secret};

async fn tried(fault: &str, only: &[String]) -> Vec<CaseReport> {
    let keys = Keys {
        channel: "chn_conform".to_owned(),
        bearer: "pck_test_conform".to_owned(),
        secrets: vec![Secret::generate(), Secret::generate()],
        private: PrivateKey::generate(),
    };
    let config = Config {
        url: String::new(),
        listen: "127.0.0.1:0".parse().unwrap(),
        keys: keys.clone(),
        silence: PATIENCE + Duration::from_secs(2),
    };
    let mut platform = Platform::start(config).await.unwrap();
    let url = Reference::start("127.0.0.1:0", platform.base(), keys, fault).await.unwrap();
    platform.set_url(url);
    run(
        only,
        |_| {},
        |id| {
            let platform = platform.clone();
            async move { platform.run(id).await }
        },
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn conform_is_green_against_an_adapter_that_behaves() {
    let cases = tried("", &[]).await;
    assert_eq!(cases.len(), 40);
    let red: Vec<_> = cases.iter().filter(|case| case.outcome == Outcome::Failed).collect();
    assert!(red.is_empty(), "{red:#?}");
    let skipped = cases.iter().filter(|case| case.outcome == Outcome::Skipped);
    assert_eq!(skipped.map(|case| case.id.as_str()).collect::<Vec<_>>(), ["P04", "P05"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn conform_is_red_for_each_planted_fault() {
    let with_streams = |id: &str| id == "P04" || id == "P05";
    let ids = CASES.iter().map(|case| case.id).filter(|id| !with_streams(id));
    let tried = stream::iter(ids).map(|id| async move { (id, tried(id, &[id.to_owned()]).await) });
    let tried: Vec<_> = tried.buffer_unordered(8).collect().await;
    assert_eq!(tried.len(), 38);
    let green: Vec<_> =
        tried.iter().filter(|(_, cases)| cases[0].outcome != Outcome::Failed).collect();
    assert!(green.is_empty(), "{green:#?}");
}
