//! What is asked of every request before anything is done for it.

use std::{any::Any, net::IpAddr};

use actix_web::{
    dev::{Extensions, ServiceRequest},
    http::header::HeaderMap,
    rt::net::TcpStream,
};

use crate::{
    address::site,
    code::Code,
    error::ApiError,
    failure::SHED,
    places::{Place, Places},
    settings::Limits,
};

/// What is known of a connection: its place among those of its address, if there was one.
struct Connection(Option<Place<IpAddr>>);

/// Gives each new connection its place. What comes from this machine needs none: it is a proxy.
pub(crate) fn on_connect(most: usize) -> impl Fn(&dyn Any, &mut Extensions) + Send + Clone {
    let places = Places::default();
    move |connection, extensions| {
        let stream = connection.downcast_ref::<TcpStream>();
        let peer = stream.and_then(|stream| stream.peer_addr().ok()).map(|peer| peer.ip());
        match peer {
            Some(peer) if most != 0 && !peer.to_canonical().is_loopback() => {
                extensions.insert(Connection(places.take(&site(peer), most)));
            }
            _ => {}
        }
    }
}

/// Lets a request in.
///
/// # Errors
/// `headers_too_large`, and `rate_limited` on one connection too many.
pub(crate) fn check(request: &ServiceRequest, limits: &Limits) -> Result<(), ApiError> {
    if let Some(Connection(None)) = request.conn_data() {
        let detail = "too many connections from this address";
        return Err(ApiError::new(Code::RateLimited, detail).retry_after(SHED).closing());
    }
    check_headers(request.headers(), limits)
}

fn check_headers(headers: &HeaderMap, limits: &Limits) -> Result<(), ApiError> {
    let refused = |detail| Err(ApiError::new(Code::HeadersTooLarge, detail).closing());
    if limits.headers < headers.len() {
        return refused(format!("the request may have {} headers at most", limits.headers));
    }
    // As on the wire: a colon, a space and the end of the line.
    let line = |name: usize, value: usize| name + value + 4;
    let lines = headers.iter().map(|(name, value)| line(name.as_str().len(), value.len()));
    if limits.header_bytes < lines.sum::<usize>() {
        return refused(format!("the headers may have {} bytes at most", limits.header_bytes));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn headers_are_bounded_in_number_and_in_size() {
        let limits = Limits { headers: 2, header_bytes: 40, ..Limits::default() };
        let refused = |headers: &[(&str, &str)]| {
            let mut request = TestRequest::default();
            for (name, value) in headers {
                request = request.append_header((*name, *value));
            }
            check_headers(request.to_http_request().headers(), &limits).is_err()
        };
        assert!(!refused(&[("a", "1"), ("b", "2")]));
        assert!(refused(&[("a", "1"), ("b", "2"), ("a", "3")]));
        // 1 + 35 + 4 bytes, and one more.
        assert!(!refused(&[("a", &"x".repeat(35))]));
        assert!(refused(&[("a", &"x".repeat(36))]));
    }
}
