//! What is wrong with the rules of a route, and where.

use std::fmt;

use qudao_core::{DataClass, ModelKind, PluginHost};
use qudao_domain::{
    Micros,
    routing::{
        Agreement, CONDITIONS_MAX, Canary, Condition, Payer, RULES_MAX, Routing, Rule, TARGETS_MAX,
        Target, WEIGHT_MAX,
    },
    text::Name,
};

use super::{check_model_name, check_models};
use crate::error::FieldCheck;

/// Values that a condition may list.
const VALUES_MAX: usize = 20;
/// Characters of a class of a model.
const LABEL_CHARS: usize = 100;
/// Characters and tokens that a condition may count.
const COUNT_MAX: u64 = 1_000_000_000;
/// The largest amount that a condition may name.
const AMOUNT_MAX: Micros = Micros::new(999_999_999_999_999_999);

/// Who asks, as far as it matters here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asker {
    pub(super) is_operator: bool,
}

/// Checks the whole of a route: what its parts say of each other too.
pub(super) fn check_route(
    models: &[String],
    routing: &Routing,
    plugins: &PluginHost,
    asker: Asker,
    check: &mut FieldCheck,
) {
    check_models(models, plugins, check);
    let kind = models.iter().find_map(|model| plugins.kind(model));
    let at = Checker { routing, plugins, kind };
    if RULES_MAX < routing.rules.len() {
        check.refuse("/rules", format_args!("may hold at most {RULES_MAX} rules"));
    }
    for (index, rule) in routing.rules.iter().enumerate() {
        at.rule(rule, &format!("/rules/{index}"), check);
    }
    if let Some(model) = &routing.sentiment_model {
        at.model(model, Some(ModelKind::Classify), "/sentiment_model", check);
    }
    if let Some(canary) = &routing.canary {
        at.canary(canary, asker, check);
    }
}

struct Checker<'a> {
    routing: &'a Routing,
    plugins: &'a PluginHost,
    /// What the route's models do, where any of them is known.
    kind: Option<ModelKind>,
}

impl Checker<'_> {
    fn rule(&self, rule: &Rule, at: &str, check: &mut FieldCheck) {
        if let Err(error) = Name::parse(&rule.name) {
            check.refuse(&format!("{at}/name"), error);
        }
        if CONDITIONS_MAX < rule.when.len() {
            let most = format_args!("may hold at most {CONDITIONS_MAX} conditions");
            check.refuse(&format!("{at}/when"), most);
        }
        for (index, condition) in rule.when.iter().enumerate() {
            self.condition(condition, &format!("{at}/when/{index}"), check);
        }
        if !(1..=TARGETS_MAX).contains(&rule.targets.len()) {
            let range = format_args!("has to name 1 to {TARGETS_MAX} models");
            check.refuse(&format!("{at}/targets"), range);
        }
        for (index, target) in rule.targets.iter().enumerate() {
            let earlier = &rule.targets[..index];
            self.target(rule, target, earlier, &format!("{at}/targets/{index}"), check);
        }
    }

    fn target(
        &self,
        rule: &Rule,
        target: &Target,
        earlier: &[Target],
        at: &str,
        check: &mut FieldCheck,
    ) {
        let place = format!("{at}/model");
        self.model(&target.model, self.kind, &place, check);
        if earlier.iter().any(|known| known.model == target.model) {
            check.refuse(&place, "is named twice");
        }
        let report = self.plugins.model(&target.model);
        if rule.local_only && report.is_some_and(|report| report.data_class == DataClass::Remote) {
            check.refuse(&place, "sends words elsewhere, and the rule is for local models only");
        }
        if target.weight.is_some_and(|weight| !(1..=WEIGHT_MAX).contains(&weight)) {
            let range = format_args!("has to be from 1 to {WEIGHT_MAX}");
            check.refuse(&format!("{at}/weight"), range);
        }
    }

    fn condition(&self, condition: &Condition, at: &str, check: &mut FieldCheck) {
        let list = format!("{at}/any_of");
        match condition {
            Condition::Sentiment { any_of, at_least } => {
                check_list(any_of, &list, check);
                for (index, label) in any_of.iter().enumerate() {
                    if label.is_empty() || LABEL_CHARS < label.chars().count() {
                        let range = format_args!("has to be 1 to {LABEL_CHARS} characters");
                        check.refuse(&format!("{list}/{index}"), range);
                    }
                }
                check_range(*at_least, 0.0, 1.0, &format!("{at}/at_least"), check);
                if self.routing.sentiment_model.is_none() {
                    check.refuse(at, "needs the route's `sentiment_model`, which is not named");
                }
            }
            Condition::Language { any_of } => {
                check_list(any_of, &list, check);
                for (index, code) in any_of.iter().enumerate() {
                    let letters = code.bytes().all(|byte| byte.is_ascii_lowercase());
                    if !letters || !(2..=3).contains(&code.len()) {
                        let what = "has to be a code of two or three small letters, such as zh";
                        check.refuse(&format!("{list}/{index}"), what);
                    }
                }
            }
            Condition::PersonalData { any_of } => check_list(any_of, &list, check),
            Condition::Modality { any_of } => check_list(any_of, &list, check),
            Condition::Characters { at_least, at_most }
            | Condition::PromptTokens { at_least, at_most } => {
                check_span(*at_least, *at_most, at, check);
            }
            Condition::Balance { below } => check_amount(*below, &format!("{at}/below"), check),
            Condition::SpentThisMonth { at_least } => {
                check_amount(*at_least, &format!("{at}/at_least"), check);
            }
            Condition::Health { model, any_of } => {
                self.model(model, None, &format!("{at}/model"), check);
                check_list(any_of, &list, check);
            }
        }
    }

    fn canary(&self, canary: &Canary, asker: Asker, check: &mut FieldCheck) {
        self.model(&canary.model, self.kind, "/canary/model", check);
        if self.kind.is_some_and(|kind| kind != ModelKind::Chat) {
            check.refuse("/canary", "is for routes of models that chat, so far");
        }
        if !(1..=100).contains(&canary.percent) {
            check.refuse("/canary/percent", "has to be from 1 to 100");
        }
        if canary.paid_by == Payer::Operator && !asker.is_operator {
            check.refuse("/canary/paid_by", "can be set to operator by the operator only");
        }
        match &canary.agreement {
            None | Some(Agreement::Text) => {}
            Some(Agreement::Embedding { model }) => {
                self.model(model, Some(ModelKind::Embed), "/canary/agreement/model", check);
            }
            Some(Agreement::Label { model }) => {
                self.model(model, Some(ModelKind::Classify), "/canary/agreement/model", check);
            }
        }
        let rules = &canary.rollback;
        let at = |field: &str| format!("/canary/rollback/{field}");
        if !(1..=10_080).contains(&rules.window_minutes) {
            check.refuse(&at("window_minutes"), "has to be from 1 to 10080");
        }
        if !(1..=100_000).contains(&rules.min_calls) {
            check.refuse(&at("min_calls"), "has to be from 1 to 100000");
        }
        check_range(Some(rules.error_rate_above), 0.0, 1.0, &at("error_rate_above"), check);
        let ratio = Some(rules.latency_ratio_above);
        check_range(ratio, 1.0, 1000.0, &at("latency_ratio_above"), check);
        check_range(Some(rules.agreement_below), 0.0, 1.0, &at("agreement_below"), check);
    }

    /// A name of the right form, of a model that does the right thing. What no plugin of this node
    /// offers at the moment may do anything.
    fn model(&self, name: &str, wanted: Option<ModelKind>, at: &str, check: &mut FieldCheck) {
        if !check_model_name(name, at, check) {
            return;
        }
        let found = self.plugins.kind(name);
        if let (Some(found), Some(wanted)) = (found, wanted)
            && found != wanted
        {
            let detail = format_args!("{}, and has to be one that {}", found.deed(), wanted.deed());
            check.refuse(at, detail);
        }
    }
}

fn check_list<T>(values: &[T], at: &str, check: &mut FieldCheck) {
    if !(1..=VALUES_MAX).contains(&values.len()) {
        check.refuse(at, format_args!("has to hold 1 to {VALUES_MAX} values"));
    }
}

fn check_range(value: Option<f64>, low: f64, high: f64, at: &str, check: &mut FieldCheck) {
    if value.is_some_and(|value| !(low..=high).contains(&value)) {
        check.refuse(at, format_args!("has to be from {low} to {high}"));
    }
}

fn check_span(low: Option<u64>, high: Option<u64>, at: &str, check: &mut FieldCheck) {
    let mut refuse = |field: &str, what: &dyn fmt::Display| {
        check.refuse(&format!("{at}{field}"), what);
    };
    if low.is_none() && high.is_none() {
        refuse("", &"give at_least, at_most, or both");
    }
    for (field, value) in [("/at_least", low), ("/at_most", high)] {
        if value.is_some_and(|value| COUNT_MAX < value) {
            refuse(field, &format_args!("has to be {COUNT_MAX} at most"));
        }
    }
    if let (Some(low), Some(high)) = (low, high)
        && high < low
    {
        refuse("/at_most", &"is less than at_least");
    }
}

fn check_amount(amount: Micros, at: &str, check: &mut FieldCheck) {
    if amount < Micros::ZERO || AMOUNT_MAX < amount {
        check.refuse(at, "has to be zero or more, with at most twelve digits before the point");
    }
}
