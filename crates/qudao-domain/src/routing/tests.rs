use proptest::prelude::*;
use serde_json::json;

use super::*;

fn healthy(_: &str) -> Health {
    Health::Closed
}

fn routing(json: serde_json::Value) -> Routing {
    serde_json::from_value(json).unwrap()
}

fn models(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn decide(routing: &Routing, signals: &Signals) -> Choice {
    match step(routing, &models(&["a", "b"]), signals, &healthy, b"k") {
        Step::Decided(choice) => choice,
        Step::Need(signal) => panic!("needs {signal:?}"),
    }
}

fn example() -> Routing {
    routing(json!({
        "rules": [
            {
                "name": "private",
                "when": [{ "signal": "personal_data", "any_of": ["any"] }],
                "targets": [{ "model": "local" }],
                "local_only": true,
            },
            {
                "name": "upset and long",
                "when": [
                    { "signal": "sentiment", "any_of": ["negative"], "at_least": 0.8 },
                    { "signal": "characters", "at_least": 10 },
                ],
                "targets": [{ "model": "large" }, { "model": "b" }],
            },
            {
                "name": "poor",
                "when": [{ "signal": "balance", "below": "0.5" }],
                "targets": [{ "model": "small" }],
            },
        ],
        "sentiment_model": "sentiment",
    }))
}

fn known<T>(value: T) -> Option<Reading<T>> {
    Some(Reading::Known(value))
}

#[test]
fn its_json_is_what_the_api_takes() {
    let json = json!({
        "rules": [{
            "name": "r",
            "when": [
                { "signal": "balance", "below": "0.5" },
                { "signal": "health", "model": "a", "any_of": ["open", "half_open"] },
                { "signal": "modality", "any_of": ["image"] },
            ],
            "targets": [{ "model": "a", "weight": 3 }, { "model": "b" }],
            "local_only": false,
            "canary": true,
        }],
        "canary": {
            "model": "new", "mode": "shadow", "percent": 10, "paid_by": "operator",
            "agreement": { "by": "embedding", "model": "embedder" },
            "rollback": { "window_minutes": 60, "min_calls": 20, "error_rate_above": 0.05,
                          "latency_ratio_above": 2.0, "agreement_below": 0.8 },
            "state": "running",
        },
    });
    let read = routing(json.clone());
    assert_eq!(serde_json::to_value(&read).unwrap(), json);
    let named: Vec<_> = read.models().collect();
    assert_eq!(named, ["a", "b", "new", "embedder"]);
    let wrong = json!([{ "name": "r", "targets": [], "when": [{ "signal": "mood" }] }]);
    assert!(serde_json::from_value::<Vec<Rule>>(wrong).is_err());
}

#[test]
fn signals_are_asked_for_one_by_one_and_only_while_they_matter() {
    let routing = example();
    let mut signals = Signals::default();
    let next = |signals: &Signals| step(&routing, &models(&["a"]), signals, &healthy, b"k");
    assert_eq!(next(&signals), Step::Need(Signal::PersonalData));
    signals.personal_data = known(Vec::new());
    assert_eq!(next(&signals), Step::Need(Signal::Characters));
    // A short message: how it sounds does not matter any more.
    signals.characters = known(3);
    assert_eq!(next(&signals), Step::Need(Signal::Balance));
    signals.balance = known(Micros::UNIT);
    let Step::Decided(choice) = next(&signals) else { panic!("nothing is missing") };
    assert_eq!((choice.rule, choice.candidates), (None, models(&["a"])));
    let failed: Vec<_> = choice.considered.iter().map(|c| c.failed_on.as_deref()).collect();
    assert_eq!(failed, [Some("personal_data"), Some("characters"), Some("balance")]);
}

#[test]
fn the_first_rule_that_matches_decides_and_nobody_else_answers() {
    let mut signals = Signals { personal_data: known(vec![Personal::Phone]), ..Signals::default() };
    let choice = decide(&example(), &signals);
    assert_eq!(choice.rule.as_deref(), Some("private"));
    assert_eq!(choice.candidates, ["local"]);
    assert!(choice.local_only);
    signals.personal_data = known(Vec::new());
    signals.characters = known(20);
    signals.sentiment = known(Sentiment { label: "negative".to_owned(), probability: 0.8 });
    let choice = decide(&example(), &signals);
    assert_eq!(choice.rule.as_deref(), Some("upset and long"));
    assert_eq!(choice.candidates, ["large", "b"]);
}

#[test]
fn what_is_not_known_does_not_match() {
    let signals = Signals {
        personal_data: known(Vec::new()),
        characters: known(20),
        sentiment: Some(Reading::unknown("unavailable")),
        balance: Some(Reading::unknown("storage")),
        ..Signals::default()
    };
    let choice = decide(&example(), &signals);
    assert_eq!((choice.rule, choice.candidates), (None, models(&["a", "b"])));
    let json = serde_json::to_value(&signals).unwrap();
    assert_eq!(json["sentiment"], json!({ "unknown": "unavailable" }));
    assert_eq!(serde_json::from_value::<Signals>(json).unwrap(), signals);
}

#[test]
fn a_rule_may_ask_how_a_model_does() {
    let routing = routing(json!({ "rules": [{
        "name": "down", "when": [{ "signal": "health", "model": "a", "any_of": ["open"] }],
        "targets": [{ "model": "spare" }],
    }] }));
    let health = |model: &str| if model == "a" { Health::Open } else { Health::Closed };
    let decided = step(&routing, &models(&["a"]), &Signals::default(), &health, b"k");
    let Step::Decided(choice) = decided else { panic!("{decided:?}") };
    assert_eq!(choice.candidates, ["spare"]);
    assert_eq!(decide(&routing, &Signals::default()).candidates, ["a", "b"]);
}

fn trial(mode: &str, percent: u32) -> Routing {
    routing(json!({ "canary": { "model": "new", "mode": mode, "percent": percent } }))
}

fn arms(routing: &Routing) -> usize {
    let decided = (0..1000_u32).map(|key| {
        let stepped =
            step(routing, &models(&["a"]), &Signals::default(), &healthy, &key.to_be_bytes());
        let Step::Decided(choice) = stepped else { panic!("{stepped:?}") };
        choice
    });
    decided.filter(|choice| choice.arm != Arm::Stable).count()
}

#[test]
fn a_canary_gets_its_part_and_falls_back_to_the_others() {
    assert_eq!(arms(&trial("live", 100)), 1000);
    assert!((60..140).contains(&arms(&trial("live", 10))));
    let live = decide(&trial("live", 100), &Signals::default());
    assert_eq!((live.arm, live.candidates), (Arm::Canary, models(&["new", "a", "b"])));
    let shadow = decide(&trial("shadow", 100), &Signals::default());
    assert_eq!((shadow.arm, shadow.candidates), (Arm::Shadow, models(&["a", "b"])));
    let mut over = trial("live", 100);
    over.canary.as_mut().unwrap().state = CanaryState::RolledBack;
    assert_eq!(arms(&over), 0);
}

#[test]
fn a_canary_sees_nothing_of_what_a_rule_keeps_to_itself() {
    let mut both = example();
    both.canary = trial("live", 100).canary;
    let signals = Signals { personal_data: known(vec![Personal::Email]), ..Signals::default() };
    assert_eq!(decide(&both, &signals).candidates, ["local"]);
    both.rules[0].canary = true;
    assert_eq!(decide(&both, &signals).candidates, ["local"], "it is for local models only");
    both.rules[0].local_only = false;
    assert_eq!(decide(&both, &signals).candidates, ["new", "local"]);
}

fn shares(weights: &[(&str, u32)], first: &str) -> usize {
    let targets: Vec<_> =
        weights.iter().map(|(model, weight)| json!({ "model": model, "weight": weight })).collect();
    let routing = routing(json!({ "rules": [{ "name": "all", "targets": targets }] }));
    let chosen = (0..2000_u32).filter(|key| {
        let stepped = step(&routing, &[], &Signals::default(), &healthy, &key.to_be_bytes());
        matches!(stepped, Step::Decided(choice) if choice.candidates[0] == first)
    });
    chosen.count()
}

#[test]
fn weights_share_what_comes() {
    assert!((1400..1600).contains(&shares(&[("a", 3), ("b", 1)], "a")));
    assert!((900..1100).contains(&shares(&[("a", 7), ("b", 7)], "a")));
}

fn any_target() -> impl Strategy<Value = Target> {
    ("[a-e]", prop::option::of(1_u32..20)).prop_map(|(model, weight)| Target { model, weight })
}

fn any_routing() -> impl Strategy<Value = Routing> {
    let condition = prop_oneof![
        (0_u64..100).prop_map(|n| Condition::Characters { at_least: Some(n), at_most: None }),
        Just(Condition::Language { any_of: vec!["zh".to_owned()] }),
        Just(Condition::PersonalData { any_of: vec![Personal::Any] }),
        Just(Condition::Sentiment { any_of: vec!["negative".to_owned()], at_least: Some(0.5) }),
        Just(Condition::Balance { below: Micros::UNIT }),
    ];
    let rule = (
        prop::collection::vec(condition, 0..4),
        prop::collection::vec(any_target(), 1..5),
        any::<bool>(),
    );
    let rule = rule.prop_map(|(when, targets, local_only)| Rule {
        name: "r".to_owned(),
        when,
        targets,
        local_only,
        canary: false,
    });
    prop::collection::vec(rule, 0..5).prop_map(|rules| Routing { rules, ..Routing::default() })
}

fn gather(signals: &mut Signals, signal: Signal, known_ones: bool) {
    let hidden = || "test";
    macro_rules! set {
        ($field:ident, $value:expr) => {
            signals.$field =
                Some(if known_ones { Reading::Known($value) } else { Reading::unknown(hidden()) })
        };
    }
    match signal {
        Signal::Characters => set!(characters, 50),
        Signal::PromptTokens => set!(prompt_tokens, 50),
        Signal::Modality => set!(modality, vec![Modality::Text]),
        Signal::Balance => set!(balance, Micros::ZERO),
        Signal::Language => set!(language, "zh".to_owned()),
        Signal::PersonalData => set!(personal_data, vec![Personal::Card]),
        Signal::SpentThisMonth => set!(spent_this_month, Micros::ZERO),
        Signal::Sentiment => {
            set!(sentiment, Sentiment { label: "negative".to_owned(), probability: 0.9 });
        }
    }
}

proptest! {
    /// Each signal is asked for once at most, the end comes, and the same values decide the same.
    #[test]
    fn a_decision_ends_and_can_be_made_again(routing in any_routing(), known_ones in any::<bool>(), key in any::<[u8; 8]>()) {
        let mut signals = Signals::default();
        let fallback = models(&["x", "y"]);
        let mut asked = Vec::new();
        let choice = loop {
            match step(&routing, &fallback, &signals, &healthy, &key) {
                Step::Decided(choice) => break choice,
                Step::Need(signal) => {
                    prop_assert!(!asked.contains(&signal));
                    asked.push(signal);
                    gather(&mut signals, signal, known_ones);
                }
            }
        };
        prop_assert!(!choice.candidates.is_empty());
        if !known_ones {
            // Only what asks for nothing matches then.
            let empty = routing.rules.iter().any(|rule| rule.when.is_empty());
            prop_assert_eq!(choice.rule.is_some(), empty);
        }
        let read: Signals = serde_json::from_value(serde_json::to_value(&signals).unwrap()).unwrap();
        let again = step(&routing, &fallback, &read, &healthy, &key);
        prop_assert_eq!(again, Step::Decided(choice));
    }

    /// All targets of a rule are asked, each as often as it is named, and leaving one out changes
    /// nothing about the rest.
    #[test]
    fn an_order_holds_without_one_of_its_targets(targets in prop::collection::btree_map("[a-h]", prop::option::of(1_u32..20), 2..8), key in any::<[u8; 8]>()) {
        let rule = |targets: Vec<Target>| Routing {
            rules: vec![Rule { name: "r".to_owned(), when: Vec::new(), targets, local_only: false, canary: false }],
            ..Routing::default()
        };
        let targets: Vec<Target> = targets.into_iter().map(|(model, weight)| Target { model, weight }).collect();
        let of = |targets: Vec<Target>| match step(&rule(targets), &[], &Signals::default(), &healthy, &key) {
            Step::Decided(choice) => choice.candidates,
            Step::Need(_) => Vec::new(),
        };
        let all = of(targets.clone());
        prop_assert_eq!(all.len(), targets.len());
        let gone = targets[0].model.clone();
        let rest = of(targets[1..].to_vec());
        let without: Vec<_> = all.into_iter().filter(|model| *model != gone).collect();
        prop_assert_eq!(rest, without);
    }
}
