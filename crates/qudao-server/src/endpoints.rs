//! How an endpoint is declared: method, path, access, handler and description in one line, so that
//! no endpoint can exist without its access check or outside the API description.

use actix_web::{
    FromRequest, Handler, Resource, Responder, Route,
    http::Method,
    middleware::from_fn,
    web::{self, ServiceConfig},
};

use crate::{
    access::{self, Access},
    code::Code,
    error::ApiError,
    openapi::Doc,
    widget::{self, entrance},
};

/// One endpoint, as the tests and the API description see it.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The HTTP method.
    pub method: Method,
    /// The path with its parameters in braces.
    pub path: &'static str,
    /// What it asks of its caller.
    pub access: Access,
    /// What it does; `None` for assets, which are no part of the API.
    pub doc: Option<Doc>,
}

/// Where nearly all requests go. Patterns are tried in turn until one matches, so these come first. No
/// other pattern matches their paths: the order changes nothing else.
const BUSY: [&str; 3] =
    ["/v1/chat/completions", "/v1/web/{key}/messages", "/v1/widget/{key}/messages"];

/// Collects the endpoints.
#[derive(Default)]
pub(crate) struct Endpoints {
    listed: Vec<Endpoint>,
    routes: Vec<(&'static str, Vec<Route>)>,
}

impl Endpoints {
    pub(crate) fn get<F, A>(&mut self, path: &'static str, access: Access, handler: F, doc: Doc)
    where
        F: Handler<A>,
        A: FromRequest + 'static,
        F::Output: Responder + 'static,
    {
        self.add(Method::GET, path, access, handler, Some(doc));
    }

    pub(crate) fn post<F, A>(&mut self, path: &'static str, access: Access, handler: F, doc: Doc)
    where
        F: Handler<A>,
        A: FromRequest + 'static,
        F::Output: Responder + 'static,
    {
        self.add(Method::POST, path, access, handler, Some(doc));
    }

    /// Where messaging platforms send what they want in the form that they want. No part of the API
    /// description: what comes there is proven by a signature in it.
    pub(crate) fn hook<F, A>(&mut self, path: &'static str, handler: F)
    where
        F: Handler<A> + Clone,
        A: FromRequest + 'static,
        F::Output: Responder + 'static,
    {
        for method in [Method::GET, Method::POST, Method::PUT] {
            self.add(method, path, Access::Public, handler.clone(), None);
        }
    }

    pub(crate) fn patch<F, A>(&mut self, path: &'static str, access: Access, handler: F, doc: Doc)
    where
        F: Handler<A>,
        A: FromRequest + 'static,
        F::Output: Responder + 'static,
    {
        self.add(Method::PATCH, path, access, handler, Some(doc));
    }

    pub(crate) fn put<F, A>(&mut self, path: &'static str, access: Access, handler: F, doc: Doc)
    where
        F: Handler<A>,
        A: FromRequest + 'static,
        F::Output: Responder + 'static,
    {
        self.add(Method::PUT, path, access, handler, Some(doc));
    }

    pub(crate) fn delete<F, A>(&mut self, path: &'static str, access: Access, handler: F, doc: Doc)
    where
        F: Handler<A>,
        A: FromRequest + 'static,
        F::Output: Responder + 'static,
    {
        self.add(Method::DELETE, path, access, handler, Some(doc));
    }

    /// A page or a file, open to everybody and no part of the API description.
    pub(crate) fn asset<F, A>(&mut self, path: &'static str, handler: F)
    where
        F: Handler<A>,
        A: FromRequest + 'static,
        F::Output: Responder + 'static,
    {
        self.add(Method::GET, path, Access::Public, handler, None);
    }

    fn add<F, A>(
        &mut self,
        method: Method,
        path: &'static str,
        access: Access,
        handler: F,
        doc: Option<Doc>,
    ) where
        F: Handler<A>,
        A: FromRequest + 'static,
        F::Output: Responder + 'static,
    {
        let mut route = web::method(method.clone()).to(handler);
        let action = doc.as_ref().and_then(Doc::action);
        if access != Access::Public {
            route = route
                .wrap(from_fn(move |request, next| access::guard(access, action, request, next)));
        }
        if path.starts_with(widget::PATHS) {
            // Around the guard: its refusals are for the page too.
            route = route.wrap(from_fn(entrance::look));
        }
        match self.routes.iter_mut().find(|(known, _)| *known == path) {
            Some((_, routes)) => routes.push(route),
            None => self.routes.push((path, vec![route])),
        }
        self.listed.push(Endpoint { method, path, access, doc });
    }

    /// All of them, in the order of declaration.
    pub(crate) fn into_list(self) -> Vec<Endpoint> {
        self.listed
    }

    /// Makes the app serve them; other methods of their paths get a 405 that names the right ones.
    pub(crate) fn register(mut self, config: &mut ServiceConfig) {
        self.routes.sort_by_key(|(path, _)| !BUSY.contains(path));
        for (path, routes) in self.routes {
            let methods: Vec<_> = self
                .listed
                .iter()
                .filter(|endpoint| endpoint.path == path)
                .map(|endpoint| endpoint.method.as_str())
                .collect();
            let allow = methods.join(", ");
            let mut resource = routes.into_iter().fold(Resource::new(path), Resource::route);
            if path.starts_with(widget::PATHS) {
                let preflight = web::method(Method::OPTIONS).to(entrance::preflight);
                resource = resource.route(preflight.wrap(from_fn(entrance::look)));
            }
            config.service(resource.default_service(web::to(move || {
                let refusal = ApiError::new(Code::MethodNotAllowed, format!("use {allow}"));
                let refusal = refusal.allowing(allow.clone());
                async move { Err::<&'static str, _>(refusal) }
            })));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_first_exists() {
        let listed = crate::endpoints().into_list();
        for busy in BUSY {
            assert!(listed.iter().any(|endpoint| endpoint.path == busy), "{busy}");
        }
    }
}
