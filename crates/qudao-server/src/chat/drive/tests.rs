use super::*;

const PATIENCE: Duration = Duration::from_millis(20);

/// A client whose queue is full for ever.
struct Stuck;

impl Wire for Stuck {
    async fn send(&mut self, _: &ServerFrame, _: TimelineCursor) -> Result<(), Gone> {
        pending().await
    }

    async fn ping(&mut self) -> Result<(), Gone> {
        pending().await
    }

    async fn receive(&mut self) -> Option<Input> {
        pending().await
    }

    async fn close(self, _: Option<Farewell>) {
        pending().await
    }
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(5), work).await.expect("an end in time")
}

#[tokio::test]
async fn a_client_that_does_not_read_is_probed_only_for_so_long() {
    let mut wire = Stuck;
    assert!(matches!(in_time(within(PATIENCE, wire.ping())).await, Err(Gone)));
    assert!(within(PATIENCE, async { Ok(()) }).await.is_ok());
}

#[tokio::test]
async fn a_farewell_that_nobody_hears_holds_no_connection() {
    in_time(part(Stuck, Some(Farewell::Silence), PATIENCE)).await;
}
