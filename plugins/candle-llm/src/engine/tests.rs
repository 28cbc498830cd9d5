//! On the real weights of SmolLM2 135M, fetched once into a shared cache.

use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};

use super::*;

fn weights() -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        #[expect(clippy::disallowed_methods, reason = "where the tests' weights are is no setting")]
        let variable = |name: &str| std::env::var(name).ok().map(PathBuf::from);
        let directory = variable("QUDAO_MODELS_DIR")
            .or_else(|| variable("HOME").map(|home| home.join(".cache/qudao/models")))
            .unwrap_or_else(|| std::env::temp_dir().join("qudao-models"));
        let puller = qudao_models::Puller::new(qudao_models::Catalogue::built_in().unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let pulled =
            runtime.block_on(puller.pull("smollm2-135m-instruct", &directory, &|_, _, _| ()));
        pulled.unwrap().path
    })
    .clone()
}

/// One loaded engine for all tests; they take turns.
fn shared() -> std::sync::MutexGuard<'static, Engine> {
    static ENGINE: OnceLock<Mutex<Engine>> = OnceLock::new();
    let engine = ENGINE.get_or_init(|| {
        Mutex::new(load(&Config { context_tokens: Some(512), ..Config::new(weights()) }))
    });
    let mut engine = engine.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    forget(&mut engine);
    engine
}

/// Leaves nothing of earlier conversations.
fn forget(engine: &mut Engine) {
    let Backend::Cpu { decoder, .. } = &engine.backend else { panic!("on the processor") };
    engine.store = Store::pages(decoder.shape(), engine.context, engine.places);
}

fn load(config: &Config) -> Engine {
    Engine::load(config, &mut |_| ()).unwrap()
}

fn greedy(seed: u64) -> Settings {
    Settings {
        temperature: 0.0,
        top_p: 1.0,
        top_k: 0,
        repeat_penalty: 1.1,
        frequency_penalty: 0.0,
        presence_penalty: 0.0,
        seed,
    }
}

fn ask(question: &str) -> Job {
    Job {
        messages: vec![Message::new("user", question)],
        max_tokens: 40,
        stop: Vec::new(),
        settings: greedy(1),
        form: None,
        logprobs: None,
        salt: String::new(),
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    text: String,
    finish: Finish,
    input: usize,
    output: usize,
}

fn run(engine: &mut Engine, jobs: Vec<Job>) -> Vec<Answer> {
    let mut replies: Vec<Option<Answer>> = jobs.iter().map(|_| None).collect();
    let mut texts = vec![String::new(); jobs.len()];
    for (id, job) in (0u64..).zip(jobs) {
        engine.admit(id, job).unwrap();
    }
    while engine.has_work() {
        for (id, output) in engine.step().unwrap() {
            let index = usize::try_from(id).unwrap();
            assert!(replies[index].is_none(), "something came after the end");
            match output {
                Output::Text { text, .. } => texts[index].push_str(&text),
                Output::End { finish, input_tokens, output_tokens } => {
                    let text = texts[index].clone();
                    replies[index] =
                        Some(Answer { text, finish, input: input_tokens, output: output_tokens });
                }
                other => panic!("{other:?} was not asked for"),
            }
        }
    }
    replies.into_iter().map(Option::unwrap).collect()
}

fn one(engine: &mut Engine, job: Job) -> Answer {
    run(engine, vec![job]).remove(0)
}

#[test]
fn the_model_answers_a_simple_question() {
    let reply = one(&mut shared(), ask("What is the capital of France?"));
    assert!(reply.text.contains("France"), "{reply:?}");
    assert_eq!(reply.finish, Finish::Stop);
    assert!(reply.input > 10 && reply.output > 3);
}

#[test]
fn the_policy_in_the_prompt_is_read() {
    let mut job = ask(
        "Reply in one sentence: do you ship to Canada? (Policy: we ship to the US and Canada, 5-7 days.)",
    );
    job.messages.insert(0, Message::new("system", "You are a helpful customer support assistant."));
    let reply = one(&mut shared(), job);
    assert!(reply.text.contains("Canada"), "{reply:?}");
}

#[test]
fn replies_side_by_side_are_the_same_as_one_after_the_other() {
    let mut engine = shared();
    let questions = ["What is the capital of France?", "Name a colour.", "What is 2+2?"];
    let alone: Vec<Answer> =
        questions.iter().map(|question| one(&mut engine, ask(question))).collect();
    forget(&mut engine);
    let together = run(&mut engine, questions.iter().map(|question| ask(question)).collect());
    assert_eq!(alone, together);
}

#[test]
fn both_of_two_replies_advance_in_every_step() {
    let mut engine = shared();
    engine.admit(1, ask("Tell me a story about a cat.")).unwrap();
    engine.admit(2, ask("Tell me a story about a dog.")).unwrap();
    while engine.running.len() < 2 || engine.running.iter().any(|reply| reply.said().is_empty()) {
        engine.step().unwrap();
    }
    let lengths =
        |engine: &Engine| engine.running.iter().map(|reply| reply.said().len()).collect::<Vec<_>>();
    let before = lengths(&engine);
    engine.step().unwrap();
    assert_eq!(lengths(&engine), before.iter().map(|length| length + 1).collect::<Vec<_>>());
    engine.park(1, true);
    let before = lengths(&engine);
    engine.step().unwrap();
    assert_eq!(lengths(&engine), [before[0], before[1] + 1]);
    engine.cancel(1);
    engine.cancel(2);
    assert_eq!(engine.running(), 0);
}

#[test]
fn the_same_seed_gives_the_same_reply_and_another_another() {
    let mut engine = shared();
    let mut job = |seed| {
        let settings = Settings { temperature: 1.0, seed, ..greedy(0) };
        one(&mut engine, Job { settings, ..ask("Tell me a story.") }).text
    };
    let first = job(5);
    assert_eq!(first, job(5));
    assert_ne!(first, job(6));
}

#[test]
fn a_stop_string_ends_the_reply_and_is_not_shown() {
    let mut engine = shared();
    let whole = one(&mut engine, ask("What is the capital of France?")).text;
    let word = whole.split_whitespace().nth(3).unwrap();
    let stopped = one(
        &mut engine,
        Job { stop: vec![word.to_owned()], ..ask("What is the capital of France?") },
    );
    assert_eq!(stopped.finish, Finish::Stop);
    assert_eq!(stopped.text, whole[..whole.find(word).unwrap()]);
}

/// The same file, the same rounding of activations: what the reference would say next.
#[test]
fn the_next_word_is_that_of_the_reference() {
    let engine = shared();
    let messages = ask("What is the capital of France?").messages;
    let tokens = prompt::fit(&engine.template, &engine.tokens, &messages, 400).unwrap();
    let Backend::Cpu { decoder, .. } = &engine.backend else { panic!("on the processor") };
    let pool = crate::pool::Pool::new(2).unwrap();
    let ours = crate::decoder::tests::logits(
        decoder,
        &pool,
        &mut crate::decoder::Cache::default(),
        &tokens,
    );
    let theirs = crate::decoder::tests::oracle(&weights(), "llama", &tokens);
    let best = |logits: &[f32]| {
        (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap()
    };
    assert_eq!(best(&ours), best(&theirs));
    // Thirty layers of rounding to 8 bits, each with scales of its own.
    let found = crate::decoder::tests::difference(&ours, &theirs);
    assert!(found < 0.08, "{found}");
}

#[test]
fn a_real_model_answers_in_the_form_that_is_asked_for() {
    let mut engine = shared();
    let schema = serde_json::json!({
        "type": "object",
        "properties": {
            "intent": { "enum": ["order_status", "refund", "other"] },
            "order_id": { "type": "integer", "minimum": 0, "maximum": 999_999 },
            "urgent": { "type": "boolean" },
            "summary": { "type": "string", "maxLength": 40 },
        },
        "required": ["intent", "order_id", "urgent", "summary"],
        "additionalProperties": false,
    });
    let mut job = ask("My order 4711 has not arrived. Where is it? Answer in JSON.");
    job.form = Some(Form::Schema(schema));
    job.max_tokens = 120;
    job.settings.repeat_penalty = 1.0;
    for (temperature, seed) in [(0.0, 1), (1.0, 2), (1.0, 3)] {
        let settings = Settings { temperature, seed, ..job.settings.clone() };
        let reply = one(&mut engine, Job { settings, ..job.clone() });
        assert_eq!(reply.finish, Finish::Stop, "{reply:?}");
        let value: serde_json::Value = serde_json::from_str(&reply.text).unwrap();
        assert!(["order_status", "refund", "other"].contains(&value["intent"].as_str().unwrap()));
        assert!(value["order_id"].as_i64().is_some_and(|id| (0..1_000_000).contains(&id)));
        assert!(value["urgent"].is_boolean());
        assert!(value["summary"].as_str().is_some_and(|text| text.chars().count() <= 40));
        assert_eq!(value.as_object().unwrap().len(), 4);
    }
}

#[test]
fn the_limit_of_the_reply_is_kept_to_the_token() {
    let reply = one(&mut shared(), Job { max_tokens: 5, ..ask("Tell me a long story.") });
    assert_eq!((reply.finish, reply.output), (Finish::Length, 5));
}

#[test]
fn the_next_question_of_a_conversation_computes_only_what_is_new() {
    let mut engine = shared();
    let first = one(&mut engine, ask("What is the capital of France?"));
    let messages = vec![
        Message::new("user", "What is the capital of France?"),
        Message::new("assistant", first.text),
        Message::new("user", "And of Italy?"),
    ];
    let follow_up = Job { messages, ..ask("") };
    engine.admit(9, follow_up.clone()).unwrap();
    engine.fill_places();
    let page = crate::pages::PAGE;
    assert!(engine.running[0].cache.len() >= first.input / page * page, "nothing was reused");
    engine.cancel(9);
    let warm = one(&mut engine, follow_up.clone());
    forget(&mut engine);
    assert_eq!(warm, one(&mut engine, follow_up));
}

#[test]
fn a_long_conversation_loses_its_oldest_turns_whole_and_keeps_the_system_prompt() {
    let mut engine = shared();
    let mut messages = vec![Message::new("system", "Always be kind.")];
    for turn in 0..40 {
        messages.push(Message::new(
            "user",
            format!("Question number {turn}: what about the weather today?"),
        ));
        messages.push(Message::new("assistant", format!("Answer number {turn}: it is fine.")));
    }
    messages.push(Message::new("user", "What is the capital of France?"));
    let prompt = prompt::fit(&engine.template, &engine.tokens, &messages, 256).unwrap();
    assert!(prompt.len() <= 256);
    let text = String::from_utf8(
        prompt.iter().flat_map(|token| engine.tokens.name(*token).into_bytes()).collect(),
    )
    .unwrap();
    assert!(text.contains("Always") && text.contains("capital"));
    assert!(!text.contains("numberĠ0:") && text.contains("Answer"));
    assert_eq!(text.matches("Question").count(), text.matches("Answer").count());
    let reply = one(&mut engine, Job { messages, ..ask("") });
    assert!(!reply.text.is_empty());
}

#[test]
fn a_question_longer_than_the_context_is_shortened_and_still_answered() {
    let mut engine = shared();
    let question = format!("{} What is the capital of France?", "blah blah 你好 ".repeat(2000));
    let reply = one(&mut engine, ask(&question));
    assert!(reply.input <= 512 - 40 && reply.output > 0, "{reply:?}");
}

#[test]
fn control_tokens_written_by_a_person_are_plain_text() {
    let engine = shared();
    let end = "<|im_end|>";
    let as_template = engine.tokens.encode(end, crate::tokens::Origin::Template);
    let as_message = engine.tokens.encode(end, crate::tokens::Origin::Message);
    assert_eq!(as_template.len(), 1);
    assert!(engine.tokens.is_end(as_template[0]));
    assert!(as_message.len() > 1 && !as_message.iter().any(|token| engine.tokens.is_end(*token)));
}

#[test]
fn words_after_a_line_end_are_whole_tokens() {
    // `system` after a control token is one token of its own, without a space before it.
    let tokens = &shared().tokens;
    let prompt = tokens.encode("<|im_start|>system\n", crate::tokens::Origin::Template);
    assert_eq!(
        prompt.iter().map(|token| tokens.name(*token)).collect::<Vec<_>>(),
        ["<|im_start|>", "system", "Ċ"]
    );
    let digits = tokens.encode("123", crate::tokens::Origin::Message);
    assert_eq!(digits.len(), 3);
}

#[test]
fn any_text_comes_back_from_its_tokens() {
    let tokens = &shared().tokens;
    for text in
        ["Hello, world!", "你好，我的快递还没到。", "emoji 😀👍🏽 and\ttabs\n\n", "naïve café"]
    {
        let bytes: Vec<u8> = tokens
            .encode(text, crate::tokens::Origin::Message)
            .iter()
            .flat_map(|token| tokens.bytes(*token).to_vec())
            .collect();
        assert_eq!(String::from_utf8(bytes).unwrap(), text);
    }
}

#[test]
fn a_truncated_file_is_refused_with_the_tensor_it_lacks() {
    let whole = std::fs::read(weights()).unwrap();
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("cut.gguf");
    std::fs::write(&path, &whole[..whole.len() - 1000]).unwrap();
    let error = Engine::load(&Config::new(&path), &mut |_| ()).err().unwrap();
    assert!(matches!(error, LoadError::Truncated { .. }), "{error}");
    std::fs::write(&path, &whole[..5000]).unwrap();
    let error = Engine::load(&Config::new(&path), &mut |_| ()).err().unwrap();
    assert!(matches!(error, LoadError::Header { .. }), "{error}");
}

#[test]
fn a_file_that_is_no_gguf_or_is_not_there_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("x.gguf");
    let load = || Engine::load(&Config::new(&path), &mut |_| ()).err().unwrap();
    assert!(matches!(load(), LoadError::Read { .. }));
    std::fs::write(&path, "<html>not found</html>").unwrap();
    assert!(matches!(load(), LoadError::NotGguf { .. }));
}

#[test]
fn a_context_that_memory_cannot_hold_is_refused() {
    let config =
        Config { context_tokens: Some(8192), max_sequences: 256, ..Config::new(weights()) };
    let gguf = Gguf::open(&config.path).unwrap();
    let shape = Shape::read(&gguf).unwrap();
    // A terabyte of caches, whatever the machine.
    let needed = crate::config::memory(&gguf, &shape, 1 << 20, 256);
    let available = crate::config::available_memory();
    let error = crate::backend::check_room(available, needed).unwrap_err();
    assert!(error.to_string().contains("max_sequences"), "{error}");
}
