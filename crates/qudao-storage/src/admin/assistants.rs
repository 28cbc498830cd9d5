//! Assistants, and the routes that say which models may answer for them.

use jiff::Timestamp;
use qudao_domain::{
    AssistantId, RouteId,
    routing::Routing,
    text::{Name, SystemPrompt},
};
use sqlx::{Row as _, postgres::PgRow, types::Json};

use crate::{Listing, Page, Result, Tx, decisions::read_routing, page::id_cursor, row};

/// A route to be made.
#[derive(Debug, Clone)]
pub struct NewRoute {
    /// What it is called.
    pub name: Name,
    /// The models, the preferred first; at least one.
    pub models: Vec<String>,
    /// Rules and a model on trial.
    pub routing: Routing,
}

/// What is to be different about a route.
#[derive(Debug, Clone, Default)]
pub struct RouteChange {
    /// What it is called.
    pub name: Option<Name>,
    /// The models that answer where no rule matches.
    pub models: Option<Vec<String>>,
    /// All of its rules and its model on trial.
    pub routing: Option<Routing>,
}

/// A route.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// Which.
    pub id: RouteId,
    /// What it is called.
    pub name: String,
    /// The models, the preferred first.
    pub models: Vec<String>,
    /// Rules and a model on trial.
    pub routing: Routing,
    /// When it was made.
    pub created_at: Timestamp,
}

/// An assistant to be made.
#[derive(Debug, Clone)]
pub struct NewAssistant {
    /// What it is called.
    pub name: Name,
    /// What it is told.
    pub system_prompt: SystemPrompt,
    /// What a person sees before they write; may be empty.
    pub greeting: String,
    /// Sampling parameters: a JSON object.
    pub params: serde_json::Value,
    /// Which models may answer.
    pub route_id: RouteId,
}

/// An assistant.
#[derive(Debug, Clone, PartialEq)]
pub struct Assistant {
    /// Which.
    pub id: AssistantId,
    /// What it is called.
    pub name: String,
    /// What it is told.
    pub system_prompt: String,
    /// What a person sees before they write; may be empty.
    pub greeting: String,
    /// Sampling parameters: a JSON object.
    pub params: serde_json::Value,
    /// Which models may answer.
    pub route_id: RouteId,
    /// When it was made.
    pub created_at: Timestamp,
}

impl Tx {
    /// Makes a route.
    ///
    /// # Errors
    /// [`StorageError::Refused`](crate::StorageError) if it names no model.
    pub async fn create_route(&mut self, new: &NewRoute) -> Result<Route> {
        let row = sqlx::query(
            "INSERT INTO routes (tenant_id, route_id, name, models, routing) \
             VALUES ($1, $2, $3, $4, $5) \
             RETURNING route_id, name, models, routing, app.micros(created_at) AS created_at",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(RouteId::new().as_uuid())
        .bind(new.name.as_str())
        .bind(&new.models)
        .bind(Json(&new.routing))
        .fetch_one(self.connection())
        .await?;
        Ok(read_route(&row)?)
    }

    /// Changes a route; `None` if it is not this tenant's. What began before goes on as it was.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn update_route(
        &mut self,
        id: RouteId,
        change: &RouteChange,
    ) -> Result<Option<Route>> {
        let row = sqlx::query(
            "UPDATE routes SET name = COALESCE($3, name), models = COALESCE($4, models), \
                 routing = COALESCE($5, routing) \
             WHERE tenant_id = $1 AND route_id = $2 \
             RETURNING route_id, name, models, routing, app.micros(created_at) AS created_at",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .bind(change.name.as_ref().map(Name::as_str))
        .bind(change.models.as_deref())
        .bind(change.routing.as_ref().map(Json))
        .fetch_optional(self.connection())
        .await?;
        Ok(row.as_ref().map(read_route).transpose()?)
    }

    /// The route, if it is this tenant's, for whoever changes it: nobody else does until the end of the
    /// transaction.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn lock_route(&mut self, id: RouteId) -> Result<Option<Route>> {
        let row = sqlx::query(
            "SELECT route_id, name, models, routing, app.micros(created_at) AS created_at \
             FROM routes WHERE tenant_id = $1 AND route_id = $2 FOR UPDATE",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .fetch_optional(self.connection())
        .await?;
        Ok(row.as_ref().map(read_route).transpose()?)
    }

    /// The route, if it is this tenant's.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn find_route(&mut self, id: RouteId) -> Result<Option<Route>> {
        let row = sqlx::query(
            "SELECT route_id, name, models, routing, app.micros(created_at) AS created_at \
             FROM routes WHERE tenant_id = $1 AND route_id = $2",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .fetch_optional(self.connection())
        .await?;
        Ok(row.as_ref().map(read_route).transpose()?)
    }

    /// The tenant's routes, the newest first.
    ///
    /// # Errors
    /// [`StorageError::BadCursor`](crate::StorageError) and others.
    pub async fn list_routes(&mut self, page: &Page) -> Result<Listing<Route>> {
        let rows = sqlx::query(
            "SELECT route_id, name, models, routing, app.micros(created_at) AS created_at \
             FROM routes \
             WHERE tenant_id = $1 AND ($2::uuid IS NULL OR route_id < $2) \
             ORDER BY route_id DESC LIMIT $3",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(page.after_id()?)
        .bind(page.probe_limit())
        .fetch_all(self.connection())
        .await?;
        let items = rows.iter().map(read_route).collect::<Result<Vec<_>, _>>()?;
        Ok(Listing::cut(items, page, |route| id_cursor(route.id.as_uuid())))
    }

    /// Makes an assistant.
    ///
    /// # Errors
    /// [`StorageError::MissingParent`](crate::StorageError) if the route is not this tenant's.
    pub async fn create_assistant(&mut self, new: &NewAssistant) -> Result<Assistant> {
        let row = sqlx::query(
            "INSERT INTO assistants \
                 (tenant_id, assistant_id, name, system_prompt, greeting, params, route_id) \
             VALUES ($1, $2, $3, $4, $5, $6, $7) \
             RETURNING assistant_id, name, system_prompt, greeting, params, route_id, \
                       app.micros(created_at) AS created_at",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(AssistantId::new().as_uuid())
        .bind(new.name.as_str())
        .bind(new.system_prompt.as_str())
        .bind(&new.greeting)
        .bind(&new.params)
        .bind(new.route_id.as_uuid())
        .fetch_one(self.connection())
        .await?;
        Ok(read_assistant(&row)?)
    }

    /// The assistant, if it is this tenant's.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn find_assistant(&mut self, id: AssistantId) -> Result<Option<Assistant>> {
        let row = sqlx::query(
            "SELECT assistant_id, name, system_prompt, greeting, params, route_id, \
                    app.micros(created_at) AS created_at \
             FROM assistants WHERE tenant_id = $1 AND assistant_id = $2",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .fetch_optional(self.connection())
        .await?;
        Ok(row.as_ref().map(read_assistant).transpose()?)
    }

    /// The tenant's assistants, the newest first.
    ///
    /// # Errors
    /// [`StorageError::BadCursor`](crate::StorageError) and others.
    pub async fn list_assistants(&mut self, page: &Page) -> Result<Listing<Assistant>> {
        let rows = sqlx::query(
            "SELECT assistant_id, name, system_prompt, greeting, params, route_id, \
                    app.micros(created_at) AS created_at \
             FROM assistants \
             WHERE tenant_id = $1 AND ($2::uuid IS NULL OR assistant_id < $2) \
             ORDER BY assistant_id DESC LIMIT $3",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(page.after_id()?)
        .bind(page.probe_limit())
        .fetch_all(self.connection())
        .await?;
        let items = rows.iter().map(read_assistant).collect::<Result<Vec<_>, _>>()?;
        Ok(Listing::cut(items, page, |assistant| id_cursor(assistant.id.as_uuid())))
    }
}

fn read_route(row: &PgRow) -> Result<Route, sqlx::Error> {
    Ok(Route {
        id: row::id(row, "route_id", RouteId::from_uuid)?,
        name: row.try_get("name")?,
        models: row.try_get("models")?,
        routing: read_routing(row)?,
        created_at: row::time(row, "created_at")?,
    })
}

fn read_assistant(row: &PgRow) -> Result<Assistant, sqlx::Error> {
    Ok(Assistant {
        id: row::id(row, "assistant_id", AssistantId::from_uuid)?,
        name: row.try_get("name")?,
        system_prompt: row.try_get("system_prompt")?,
        greeting: row.try_get("greeting")?,
        params: row.try_get("params")?,
        route_id: row::id(row, "route_id", RouteId::from_uuid)?,
        created_at: row::time(row, "created_at")?,
    })
}
