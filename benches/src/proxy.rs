//! The reference of the gateway bench: the least that a reverse proxy on actix-web can do.
//!
//! It checks nothing, counts nothing and forgets every request. What Qudao costs on top of it is
//! the price of keys, limits, routing and charging.

use std::net::TcpListener;

use actix_web::{
    App, HttpRequest, HttpResponse, HttpServer, error::ErrorBadGateway, http::header, web,
};

/// Forwards every request to `upstream` (`http://host:port`) until the process ends.
///
/// # Errors
/// Only when the listener cannot be used.
pub async fn run(listener: TcpListener, upstream: String) -> std::io::Result<()> {
    HttpServer::new(move || {
        let client = awc::Client::builder()
            .connector(awc::Connector::new().limit(0))
            .timeout(std::time::Duration::from_secs(30))
            .finish();
        App::new()
            .app_data(web::Data::new(upstream.clone()))
            .app_data(web::Data::new(client))
            .default_service(web::to(forward))
    })
    .tcp_nodelay(true)
    .listen(listener)?
    .run()
    .await
}

async fn forward(
    request: HttpRequest,
    body: web::Bytes,
    upstream: web::Data<String>,
    client: web::Data<awc::Client>,
) -> actix_web::Result<HttpResponse> {
    let url = format!("{}{}", upstream.as_str(), request.uri());
    let reply =
        client.request_from(url, request.head()).send_body(body).await.map_err(ErrorBadGateway)?;
    let mut answer = HttpResponse::build(reply.status());
    for (name, value) in reply.headers().iter().filter(|(name, _)| **name != header::CONNECTION) {
        answer.append_header((name.clone(), value.clone()));
    }
    Ok(answer.streaming(reply))
}
