use std::ptr;

use super::*;
use crate::{
    abi::{QdEvent, SIZE_OF_HOST_API},
    wire::Usage,
};

/// Works on the host's threads.
struct Guest;

impl AsyncModelPlugin for Guest {
    type Config = serde_json::Value;

    fn worker_threads(_: &Self::Config) -> usize {
        0
    }

    fn create(_: Host, _: Self::Config) -> Result<Self, PluginError> {
        Ok(Self)
    }

    async fn run(&self, _: OwnedRequest, _: &AsyncSink) -> Result<Completion, PluginError> {
        Ok(Completion::stop(Usage::default()))
    }
}

unsafe extern "C" fn emit(_: *mut c_void, _: u64, _: *const QdEvent, _: u32) -> i32 {
    1
}

#[test]
fn a_plugin_without_threads_is_not_created_where_the_host_makes_no_exchanges() {
    // As a host of ABI 1.0 offers it.
    let host = QdHostApi {
        struct_size: SIZE_OF_HOST_API,
        abi_minor: 0,
        ctx: ptr::null_mut(),
        log: None,
        emit: Some(emit),
        wait_credit: None,
        http: None,
        http_read: None,
        http_stop: None,
        timer: None,
    };
    let (mut instance, mut error) = (ptr::null_mut(), QdError::empty());
    let create = api::<Guest>().create.unwrap();
    // SAFETY: the arguments live through the call, as the ABI asks.
    let code =
        unsafe { create(&raw const host, QdBytes::EMPTY, &raw mut instance, &raw mut error) };
    assert!(code < 0 && instance.is_null());
    assert!(error.message().contains("ABI 1.1"), "{}", error.message());
}
