//! A host for the tests, whose only plugin lends them its exchanges.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        LazyLock, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use qudao_plugin_api::{
    AsyncModelPlugin, AsyncSink, Completion, Host, Net, OwnedRequest, PluginError,
    sdk::asynchronous, wire::Usage,
};
use qudao_plugin_host::{
    Call, HostSettings, InstanceSettings, ModelKind, ModelState, PluginHost, Trace,
};
use tokio::sync::oneshot;

type Work = Box<dyn FnOnce(Net) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// What is to be done with a request's exchanges, by the number that the request carries.
static WORK: LazyLock<Mutex<HashMap<u64, Work>>> = LazyLock::new(Mutex::default);
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Does the work of the request's number.
struct Lending;

impl AsyncModelPlugin for Lending {
    type Config = serde_json::Value;

    fn worker_threads(_: &Self::Config) -> usize {
        0
    }

    fn create(_: Host, _: Self::Config) -> Result<Self, PluginError> {
        Ok(Self)
    }

    async fn run(
        &self,
        request: OwnedRequest,
        sink: &AsyncSink,
    ) -> Result<Completion, PluginError> {
        let number: u64 = serde_json::from_slice(&request.payload).unwrap();
        let work = WORK.lock().unwrap().remove(&number).unwrap();
        work(sink.net()?).await;
        Ok(Completion::stop(Usage::default()))
    }
}

/// A host that makes exchanges.
pub(crate) struct Lender(PluginHost);

impl Lender {
    pub(crate) async fn start() -> Self {
        let host = PluginHost::start(HostSettings::default()).await;
        let settings = InstanceSettings::new("lender", "lender", "lender");
        host.register_table(asynchronous::table::<Lending>(), settings);
        while host.model("lender").is_none_or(|model| model.state != ModelState::Ready) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Self(host)
    }

    /// Does the work within a request of the plugin's. Dropping it cancels the request.
    pub(crate) async fn lend<T: Send + 'static, F>(
        &self,
        work: impl FnOnce(Net) -> F + Send + 'static,
    ) -> T
    where
        F: Future<Output = T> + Send + 'static,
    {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let (done, outcome) = oneshot::channel();
        let work: Work = Box::new(move |net| {
            let work = work(net);
            Box::pin(async move {
                let _ = done.send(work.await);
            })
        });
        WORK.lock().unwrap().insert(number, work);
        let call = Call {
            kind: ModelKind::Chat,
            payload: number.to_string().into_bytes(),
            timeout: Duration::from_secs(60),
            trace: Trace::NONE,
        };
        let _cancels_when_dropped = self.0.call("lender", call).unwrap();
        outcome.await.unwrap()
    }
}
