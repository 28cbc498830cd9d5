//! The engine's rules, on a small random model.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::tiny::{engine, finish, job, run, text};
use super::*;

/// A schema with an end in sight, and whether a value satisfies it.
#[derive(Clone, Debug)]
enum Kind {
    Int(i64, i64),
    Word(usize),
    Either(Vec<String>),
    Flag,
    List(Box<Kind>, usize),
    Object(Vec<(Kind, bool)>),
}

impl Kind {
    fn schema(&self) -> Value {
        match self {
            Self::Int(least, most) => {
                json!({ "type": "integer", "minimum": least, "maximum": most })
            }
            Self::Word(most) => json!({ "type": "string", "maxLength": most }),
            Self::Either(words) => json!({ "enum": words }),
            Self::Flag => json!({ "type": ["boolean", "null"] }),
            Self::List(kind, most) => {
                json!({ "type": "array", "items": kind.schema(), "maxItems": most })
            }
            Self::Object(members) => {
                let named = |at: usize| format!("m{at}");
                let properties: serde_json::Map<String, Value> = members
                    .iter()
                    .enumerate()
                    .map(|(at, (kind, _))| (named(at), kind.schema()))
                    .collect();
                let required: Vec<String> = members
                    .iter()
                    .enumerate()
                    .filter(|(_, (_, required))| *required)
                    .map(|(at, _)| named(at))
                    .collect();
                json!({ "type": "object", "properties": properties, "required": required,
                        "additionalProperties": false })
            }
        }
    }

    fn holds(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Int(least, most), value) => {
                value.as_i64().is_some_and(|value| (*least..=*most).contains(&value))
            }
            (Self::Word(most), Value::String(text)) => text.chars().count() <= *most,
            (Self::Either(words), Value::String(text)) => words.contains(text),
            (Self::Flag, value) => value.is_boolean() || value.is_null(),
            (Self::List(kind, most), Value::Array(items)) => {
                items.len() <= *most && items.iter().all(|item| kind.holds(item))
            }
            (Self::Object(members), Value::Object(found)) => {
                let known = found.keys().all(|name| {
                    name.strip_prefix('m')
                        .and_then(|at| at.parse::<usize>().ok())
                        .is_some_and(|at| at < members.len())
                });
                known
                    && members.iter().enumerate().all(|(at, (kind, required))| {
                        match found.get(&format!("m{at}")) {
                            Some(value) => kind.holds(value),
                            None => !required,
                        }
                    })
            }
            _ => false,
        }
    }
}

fn kinds() -> impl Strategy<Value = Kind> {
    let leaf = prop_oneof![
        (-500i64..500, 0i64..500).prop_map(|(least, width)| Kind::Int(least, least + width)),
        (0usize..7).prop_map(Kind::Word),
        prop::collection::vec("[a-z\"\\\\é你]{1,4}", 1..4).prop_map(Kind::Either),
        Just(Kind::Flag),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            (inner.clone(), 0usize..4).prop_map(|(kind, most)| Kind::List(Box::new(kind), most)),
            prop::collection::vec((inner, any::<bool>()), 0..4).prop_map(Kind::Object),
        ]
    })
}

fn with_schema(question: &str, seed: u64, schema: Value) -> Job {
    Job { form: Some(Form::Schema(schema)), max_tokens: 700, ..job(question, seed) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn an_answer_always_satisfies_its_schema(
        members in prop::collection::vec((kinds(), any::<bool>()), 0..4),
        seed in any::<u64>(),
    ) {
        let kind = Kind::Object(members);
        let mut engine = engine(2);
        engine.admit(1, with_schema("x", seed, kind.schema())).unwrap();
        engine.admit(2, with_schema("x", seed ^ 1, kind.schema())).unwrap();
        for (_, outputs) in run(&mut engine) {
            let text = text(&outputs);
            prop_assert_eq!(finish(&outputs), Finish::Stop, "{}", text);
            let value: Value = serde_json::from_str(&text).unwrap();
            prop_assert!(kind.holds(&value), "{} for {}", text, kind.schema());
        }
    }

    /// Whatever is answered beside it, and whatever was computed before: a reply is the same.
    #[test]
    fn a_batch_says_what_each_says_alone(
        asked in prop::collection::vec(
            ("[a-z ]{1,120}", any::<u64>(), prop_oneof![Just(0.0f32), Just(1.0)], any::<bool>()),
            1..6,
        ),
        places in 1usize..5,
    ) {
        let jobs = || asked.iter().map(|(question, seed, temperature, constrained)| {
            let mut job = job(question, *seed);
            job.settings.temperature = *temperature;
            job.form = constrained.then(|| Form::Schema(Kind::Word(5).schema()));
            job.salt = question.chars().take(1).collect();
            job
        });
        let alone: Vec<String> = jobs().map(|job| {
            let mut engine = engine(1);
            engine.admit(0, job).unwrap();
            text(&run(&mut engine)[&0])
        }).collect();
        let mut engine = engine(places);
        for _ in 0..2 {
            for (id, job) in (0u64..).zip(jobs()) {
                engine.admit(id, job).unwrap();
            }
            let together = run(&mut engine);
            let together: Vec<String> = together.values().map(|outputs| text(outputs)).collect();
            prop_assert_eq!(&together, &alone);
        }
    }
}

#[test]
fn a_grammar_and_an_expression_are_kept_to() {
    let mut engine = engine(2);
    let lark = Form::Lark("start: (\"ab\" | \"12\")~2 \"!\"".to_owned());
    engine.admit(1, Job { form: Some(lark), ..job("x", 3) }).unwrap();
    let regex = Form::Regex("[0-9]{4}-(0[1-9]|1[0-2])".to_owned());
    engine.admit(2, Job { form: Some(regex), ..job("x", 4) }).unwrap();
    let all = run(&mut engine);
    let lark = text(&all[&1]);
    assert!(["abab!", "ab12!", "12ab!", "1212!"].contains(&lark.as_str()), "{lark}");
    let date = text(&all[&2]);
    let (year, month) = date.split_once('-').unwrap();
    assert!(year.len() == 4 && year.parse::<u32>().is_ok(), "{date}");
    assert!((1..=12).contains(&month.parse::<u32>().unwrap()), "{date}");
}

#[test]
fn a_form_that_is_none_is_refused_when_it_is_asked_for() {
    let mut engine = engine(1);
    for form in [
        Form::Schema(json!({ "type": "no such type" })),
        Form::Schema(json!({ "$ref": "https://example.com/schema.json" })),
        Form::Schema(json!({ "type": "object", "properties": { "a": false }, "required": ["a"] })),
        Form::Regex("(unclosed".to_owned()),
        Form::Lark("start: nothing_like_this".to_owned()),
    ] {
        let refused = engine.admit(1, Job { form: Some(form.clone()), ..job("x", 1) });
        let reason = refused.unwrap_err().to_string();
        assert!(reason.starts_with("response_format: "), "{form:?}: {reason}");
    }
    assert!(!engine.has_work());
}

#[test]
fn a_shared_persona_is_computed_once_and_for_its_own_tenant_only() {
    let mut engine = engine(3);
    let persona = "You sell tea and nothing else. ".repeat(10);
    let ask = |question: &str, salt: &str| {
        let mut job = job(question, 5);
        job.messages.insert(0, Message::new("system", &*persona));
        job.salt = salt.to_owned();
        job
    };
    engine.admit(1, ask("first", "a")).unwrap();
    run(&mut engine);
    engine.admit(2, ask("second", "a")).unwrap();
    engine.admit(3, ask("third", "b")).unwrap();
    engine.fill_places();
    let begun: Vec<usize> = engine.running.iter().map(|reply| reply.cache.len()).collect();
    assert!(begun[0] >= persona.len() / 32 * 32, "{begun:?}");
    assert_eq!(begun[1], 0);
    run(&mut engine);
    // Asked at the same moment, the one that reads later finds what the other has read.
    let other = "Another shop, that sells only bread and cake. ".repeat(9);
    for id in 4..6 {
        let mut job = ask("x", "a");
        job.messages[0] = Message::new("system", &*other);
        engine.admit(id, job).unwrap();
    }
    let mut steps = 0;
    while engine.running.is_empty() || engine.running.iter().any(Reply::is_reading) {
        engine.step().unwrap();
        steps += 1;
    }
    let pieces = other.len().div_ceil(PROMPT_PIECE);
    assert!(steps <= pieces + 2, "{steps} steps for {pieces} pieces");
}

#[test]
fn tenants_take_turns_at_the_places() {
    let mut engine = engine(2);
    for id in 0..8 {
        engine.admit(id, Job { salt: "loud".to_owned(), ..job("x", id) }).unwrap();
    }
    engine.step().unwrap();
    engine.admit(100, Job { salt: "quiet".to_owned(), ..job("x", 1) }).unwrap();
    let mut ended = Vec::new();
    while engine.has_work() {
        let outputs = engine.step().unwrap();
        let ends = outputs.iter().filter(|(_, output)| matches!(output, Output::End { .. }));
        ended.extend(ends.map(|(id, _)| *id));
    }
    assert_eq!(ended.len(), 9);
    let place = ended.iter().position(|id| *id == 100).unwrap();
    assert!(place <= 4, "the quiet one was served after {place} others");
}

#[test]
fn a_reply_that_nobody_reads_gives_its_place_up_and_says_the_same_later() {
    let mut engine = engine(2);
    let slow = || Job { max_tokens: 40, ..job("a slow reader asks this", 11) };
    engine.admit(1, slow()).unwrap();
    let expected = text(&run(&mut engine)[&1]);
    engine.admit(1, slow()).unwrap();
    engine.admit(2, slow()).unwrap();
    let mut heard = String::new();
    let mut listen = |engine: &mut Engine| {
        let outputs = engine.step().unwrap();
        let own = outputs.into_iter().filter(|(id, _)| *id == 1).map(|(_, output)| output);
        heard.push_str(&text(&own.collect::<Vec<_>>()));
    };
    while engine.running.iter().all(|reply| reply.said().len() < 7) {
        listen(&mut engine);
    }
    engine.park(1, true);
    engine.park(2, true);
    assert!(!engine.has_work());
    // Nobody is kept waiting by the two.
    for id in 3..7 {
        engine.admit(id, job("somebody else", id)).unwrap();
    }
    let others = run(&mut engine);
    assert_eq!(others.keys().copied().collect::<Vec<_>>(), [3, 4, 5, 6]);
    assert_eq!((engine.running(), engine.aside.len()), (0, 2));
    assert!(engine.cancel(2).is_some());
    engine.park(1, false);
    while engine.has_work() {
        listen(&mut engine);
    }
    assert_eq!(heard, expected);
}

#[test]
fn the_cache_never_takes_more_than_its_pages() {
    let mut engine = engine(2);
    for id in 0..12 {
        let question = format!("{id} {}", "long ".repeat(60));
        engine.admit(id, job(&question, id)).unwrap();
    }
    run(&mut engine);
    let Store::Pages(pages) = &engine.store else { panic!("on the processor") };
    assert_eq!(pages.available(), 2 * 1024 / crate::pages::PAGE);
}

#[test]
fn probabilities_are_told_for_what_is_shown() {
    let mut engine = engine(1);
    let mut asked = Job { logprobs: Some(3), ..job("x", 21) };
    asked.settings.temperature = 0.0;
    engine.admit(1, asked.clone()).unwrap();
    let outputs = run(&mut engine).remove(&1).unwrap();
    let told: Vec<TokenLogprob> = outputs
        .iter()
        .filter_map(|output| match output {
            Output::Logprobs(told) => Some(told.clone()),
            _ => None,
        })
        .flatten()
        .collect();
    let Some(Output::End { output_tokens, finish, .. }) = outputs.last() else { panic!() };
    let ended = usize::from(*finish == Finish::Stop);
    assert_eq!(told.len(), output_tokens - ended);
    for told in &told {
        assert_eq!(told.top.len(), 3);
        assert_eq!(told.top[0], (told.token, told.logprob), "greedy takes the likeliest");
        assert!(told.logprob < 0.0 && told.top[1].1 <= told.logprob);
    }
    engine.admit(2, Job { logprobs: None, ..asked }).unwrap();
    let silent = run(&mut engine).remove(&2).unwrap();
    assert!(!silent.iter().any(|output| matches!(output, Output::Logprobs(_))));
    assert_eq!(text(&silent), text(&outputs));
}
