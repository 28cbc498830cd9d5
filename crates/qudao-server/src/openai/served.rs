//! Headers that say who served a call, and how it was chosen.

use actix_web::{
    HttpResponseBuilder,
    http::header::{HeaderName, HeaderValue},
};
use qudao_core::{Served, ServedBy};

const MODEL: HeaderName = HeaderName::from_static("x-qudao-model");

/// Names of the headers, for the description.
pub(crate) const HEADERS: [(&str, &str); 4] = [
    ("X-Qudao-Model", "The model that served the call."),
    ("X-Qudao-Route", "The route that chose it, if the call named one."),
    ("X-Qudao-Fallbacks", "How many models were asked or passed over before."),
    ("X-Qudao-Decision", "The decision's record, under the tenant's `decisions`."),
];

/// Tells the caller.
pub(crate) fn tell(response: &mut HttpResponseBuilder, served: &Served) {
    // A name may hold letters that are not ASCII: they go as they are, in UTF-8.
    if let Ok(model) = HeaderValue::from_bytes(served.model.as_bytes()) {
        response.insert_header((MODEL, model));
    }
    if let Some(ServedBy { route_id, decision_id, fallbacks }) = served.routed {
        response
            .insert_header(("x-qudao-route", route_id.to_string()))
            .insert_header(("x-qudao-fallbacks", fallbacks.to_string()))
            .insert_header(("x-qudao-decision", decision_id.to_string()));
    }
}
