//! What handlers share.

use std::sync::Arc;

use actix_web::{HttpRequest, http::header::HeaderValue, web};
use qudao_channels::Host;
use qudao_core::Core;
use qudao_domain::TenantId;
use qudao_identity::Identity;
use tokio::{runtime::Handle, sync::watch};

use crate::{
    MetricsRender,
    error::ApiError,
    places::{Budget, Places},
    settings::ServerSettings,
};

/// What handlers share: one for all threads.
pub(crate) struct AppState {
    pub(crate) core: Arc<Core>,
    pub(crate) identity: Arc<Identity>,
    /// The adapters of other platforms.
    pub(crate) channels: Arc<Host>,
    pub(crate) settings: ServerSettings,
    pub(crate) metrics: MetricsRender,
    /// Bodies that are held.
    pub(crate) bodies: Budget,
    /// Open chats by tenant.
    pub(crate) tenant_chats: Places<TenantId>,
    /// Open chats by the hash of the visitor's token.
    pub(crate) visitor_chats: Places<Arc<str>>,
    /// Turns true once, when the node begins to shut down.
    pub(crate) draining: watch::Receiver<bool>,
    /// The process's own runtime, which outlives the HTTP threads.
    pub(crate) runtime: Handle,
    /// What tells browsers to come by https only.
    pub(crate) hsts: Option<HeaderValue>,
}

impl AppState {
    /// The state of the app that got this request.
    #[expect(clippy::expect_used, reason = "`crate::configure` puts it into every app")]
    pub(crate) fn of(request: &HttpRequest) -> &web::Data<Self> {
        request.app_data().expect("every app carries the state")
    }

    /// Runs `work` on the process's runtime. A connection of the database pool belongs to the
    /// runtime that opened it, so no HTTP thread may open one: it would die with that thread.
    /// The work also goes on if the client hangs up, so that nothing is left half done.
    ///
    /// # Errors
    /// The work's own, and `draining` if the runtime is ending.
    pub(crate) async fn on_runtime<T, E, F>(&self, work: F) -> Result<T, ApiError>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: Into<ApiError> + Send + 'static,
    {
        match self.core.tasks.spawn_on(work, &self.runtime).await {
            Ok(result) => result.map_err(Into::into),
            Err(error) if error.is_panic() => {
                tracing::error!(%error, "a request panicked");
                Err(ApiError::new(crate::code::Code::Internal, "the request could not be served"))
            }
            Err(_) => Err(ApiError::new(crate::code::Code::Draining, "this node is shutting down")),
        }
    }

    /// As [`Self::on_runtime`], but on the calling thread and ended with the request: `work` is
    /// polled as if the process's runtime did it, so that what it opens belongs to that runtime.
    /// Spares the hot path two changes of thread.
    pub(crate) fn within<F: Future>(&self, work: F) -> impl Future<Output = F::Output> {
        let runtime = self.runtime.clone();
        let mut work = Box::pin(work);
        std::future::poll_fn(move |cx| {
            let _entered = runtime.enter();
            work.as_mut().poll(cx)
        })
    }

    pub(crate) fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }
}
