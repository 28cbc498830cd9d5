//! What the endpoints of routes do.

use serde_json::json;

use super::LOCATION;
use crate::{
    admin::{
        decisions::{BreakerList, DecisionBody},
        offers::OfferList,
        routes::{CreateRoute, RouteBody, UpdateRoute},
        traffic::RouteTraffic,
    },
    code::Code,
    openapi::Doc,
};

pub(crate) fn create_route() -> Doc {
    Doc::new("Assistants", "Create a route")
        .act("route.create")
        .once()
        .about(
            "A route says which models may serve: those of the first rule that matches, else `models`, \
             the preferred first. The route's name may stand in a model's place in calls of the API.",
        )
        .body::<CreateRoute>(json!({
            "name": "Local",
            "models": ["qwen2.5-0.5b-instruct"],
            "rules": [{
                "name": "personal data stays here",
                "when": [{ "signal": "personal_data", "any_of": ["any"] }],
                "targets": [{ "model": "qwen2.5-0.5b-instruct" }],
                "local_only": true,
            }],
        }))
        .returns::<RouteBody>(201, LOCATION)
}

pub(crate) fn list_routes() -> Doc {
    Doc::new("Assistants", "List the routes")
        .paged()
        .lists::<RouteBody>("The routes, the newest first.")
}

pub(crate) fn get_route() -> Doc {
    Doc::new("Assistants", "Read a route").returns::<RouteBody>(200, "The route.")
}

pub(crate) fn update_route() -> Doc {
    Doc::new("Assistants", "Change a route")
        .act("route.update")
        .about("What begins from now on is decided by the new rules. What is left out stays.")
        .body::<UpdateRoute>(json!({ "models": ["qwen2.5-0.5b-instruct"] }))
        .returns::<RouteBody>(200, "The route as it is now.")
}

pub(crate) fn route_traffic() -> Doc {
    Doc::new("Assistants", "Say what came through a route")
        .about("Who answered, which rules matched, who was passed over and why, and how the trial does.")
        .query("minutes", "Over so many minutes, 1 to 10080; 60 if left out.")
        .fails(&[Code::InvalidQuery])
        .returns::<RouteTraffic>(200, "What its decisions sum up to.")
}

pub(crate) fn list_offers() -> Doc {
    Doc::new("Assistants", "List the models that routes may name")
        .about(
            "Those that are for sale in the tenant's currency, with how they do on the node that \
             answers.",
        )
        .returns::<OfferList>(200, "The models, by name.")
}

pub(crate) fn list_decisions() -> Doc {
    Doc::new("Assistants", "List what routes decided")
        .about(
            "One for each attempt at a turn and each call by a route's name: the rules that were \
             considered, with which signals, who was asked, and why the next one. Kept for 30 days.",
        )
        .paged()
        .query("turn_id", "Those about this turn or call.")
        .query("route_id", "Those of this route.")
        .query("conversation_id", "Those of this conversation.")
        .query("model", "Those that this model answered.")
        .query("arm", "Those on this side of a trial: `stable`, `canary` or `shadow`.")
        .query(
            "outcome",
            "Those that the `first` model answered, another one (`fallback`), or `nobody`.",
        )
        .lists::<DecisionBody>("The decisions, the newest first.")
}

pub(crate) fn get_decision() -> Doc {
    Doc::new("Assistants", "Read what a route decided")
        .returns::<DecisionBody>(200, "The decision.")
}

pub(crate) fn breakers() -> Doc {
    Doc::new("Plugins", "Say how the models of this node do")
        .about("Models that were asked since the node began, with the state of their breakers.")
        .returns::<BreakerList>(200, "The models, by name.")
}
