//! Callers and visitors who hang up at random moments.

use std::time::Duration;

use futures_util::StreamExt as _;
use qudao_testkit::TestTenant;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{task::JoinSet, time};

use crate::{
    platform::{Platform, Visitor},
    record::{Record, Seen},
    socket::{self, Returned},
    stage::Stage,
    verdict::{self, Bounds, Line, Verdict},
};

/// How many clients there are at a time.
const AT_ONCE: usize = 24;
const DRAIN: Duration = Duration::from_secs(60);

/// Lets so many clients come and go.
///
/// # Errors
/// If the run could not be made.
pub async fn run(seed: u64, clients: usize) -> anyhow::Result<Verdict> {
    let mut random = StdRng::seed_from_u64(seed);
    let stage = Stage::set(false).await?;
    let tenant = stage.tenant(1_000_000_000, &["fake"]).await;
    let node = stage.node().await?;
    let (mut open, mut returned) = (JoinSet::new(), Vec::new());
    for n in 0..clients {
        if AT_ONCE <= open.len()
            && let Some(gone) = open.join_next().await
        {
            returned.extend(gone??);
        }
        let own = StdRng::seed_from_u64(random.random());
        open.spawn(come_and_go(
            stage.platform.clone(),
            stage.record.clone(),
            tenant.clone(),
            n,
            own,
        ));
    }
    while let Some(gone) = open.join_next().await {
        returned.extend(gone??);
    }
    stage.drain(DRAIN).await?;
    // A connection that went back to the pool with a transaction open would be here still.
    let stuck = stage.sql(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
         AND state = 'idle in transaction' AND state_change < now() - interval '1 second'",
    );
    let bounds = Bounds { answer: Duration::from_secs(60), redundant: 0 };
    let mut verdict = verdict::judge(&stage, bounds).await?;
    verdict.lines.push(Line {
        id: "P2",
        title: format!("none of {clients} clients who hung up left a transaction open"),
        examined: clients,
        violations: stuck.parse().unwrap_or(usize::MAX),
        sample: None,
    });
    let wrong = |it: &&Returned| it.questions != 1 || it.answers != 1;
    verdict.lines.push(Line {
        id: "P7",
        title: "whoever came back on a socket found their message once, with one answer".to_owned(),
        examined: returned.len(),
        violations: returned.iter().filter(wrong).count(),
        sample: returned.iter().find(wrong).map(|it| format!("{it:?}")),
    });
    drop(node);
    Ok(verdict)
}

/// Clients call the API, write on the web chat by requests, or by a socket, in turns. Each leaves
/// before the answer, in the middle of it, or after it; who wrote by a socket comes back.
async fn come_and_go(
    platform: Platform,
    record: Record,
    tenant: TestTenant,
    n: usize,
    mut random: StdRng,
) -> anyhow::Result<Option<Returned>> {
    let patience = Duration::from_micros(random.random_range(100..900_000));
    let (visitor, id) = (Visitor::of(&tenant), format!("gone{n}"));
    if n % 3 == 1 {
        let returned = socket::leave_and_return(&platform, &visitor, &id, patience).await?;
        record.add(Seen::Acknowledged { id })?;
        return Ok(Some(returned));
    }
    if n.is_multiple_of(3) {
        let send = platform.deliver(&visitor, &id, "hello and goodbye", Duration::from_secs(1));
        // Whether it was accepted is not known to somebody who left.
        let _ = time::timeout(patience / 20, send).await;
        return Ok(None);
    }
    let name = tenant.id.as_uuid().to_string();
    record.add(Seen::Called { tenant: name.clone() })?;
    let call = async {
        let response = platform.begin_call(&tenant, "fake", "two words", 32).await?;
        let mut body = response.bytes_stream();
        let mut text = Vec::new();
        while let Some(Ok(piece)) = body.next().await {
            text.extend_from_slice(&piece);
        }
        text.ends_with(b"data: [DONE]\n\n").then_some(())
    };
    if let Ok(Some(())) = time::timeout(patience, call).await {
        record.add(Seen::Confirmed { tenant: name })?;
    }
    Ok(None)
}
