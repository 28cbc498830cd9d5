use std::fs;

use super::*;

fn context(text: &str) -> Context {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("qudao.toml");
    fs::write(&file, text).unwrap();
    let loaded = qudao_config::load(Some(&file), []).unwrap();
    Context { settings: loaded.settings, file: None, home: dir.path().to_owned() }
}

fn names(instances: &[Instance]) -> Vec<&str> {
    instances.iter().map(|instance| instance.name.as_str()).collect()
}

#[test]
fn models_that_are_here_are_offered_and_those_that_speak_chinese_go_first() {
    let dir = tempfile::tempdir().unwrap();
    let catalogue = Catalogue::built_in().unwrap();
    assert!(local(&catalogue, dir.path()).is_empty());
    for name in ["smollm2-135m-instruct", "qwen2.5-0.5b-instruct"] {
        let model = catalogue.model(name).unwrap();
        fs::write(dir.path().join(model.file_name()), "").unwrap();
    }
    let instances = local(&catalogue, dir.path());
    assert_eq!(names(&instances), ["qwen2.5-0.5b-instruct", "smollm2-135m-instruct"]);
}

#[test]
fn every_default_model_has_a_price_in_yuan_and_in_dollars() {
    let prices = prices(&[echo()]);
    let currencies: Vec<Currency> = prices.iter().map(|price| price.currency).collect();
    assert_eq!(currencies, [Currency::CNY, Currency::USD]);
    assert!(prices.iter().all(|price| Micros::ZERO < price.rates.output_per_mtok));
}

#[test]
fn echo_answers_in_the_demo_only_when_nothing_better_does() {
    let context = context("");
    let echo_alone = demo_models(&context, &[echo()]);
    assert_eq!(echo_alone, (vec!["echo".to_owned()], Vec::new()));
    let mut llm = echo();
    llm.plugin = "candle-llm".to_owned();
    llm.models[0].name = "llm".to_owned();
    let with_llm = demo_models(&context, &[echo(), llm]);
    assert_eq!(with_llm, (vec!["llm".to_owned()], vec!["echo".to_owned()]));
}

#[test]
fn listed_instances_are_taken_as_they_are() {
    let text = "[[instances]]\nname = \"a\"\nplugin = \"echo\"\nmodels = [{ name = \"m\" }]\n";
    assert_eq!(names(&decide(&context(text)).unwrap()), ["a"]);
}

#[test]
fn detectors_that_are_here_look_and_do_not_chat() {
    let dir = tempfile::tempdir().unwrap();
    let header = r#"{"__metadata__":{"qudao.kind":"detect"}}"#;
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    fs::write(dir.path().join("eye.safetensors"), bytes).unwrap();
    let eyes = eyes(dir.path());
    assert_eq!(names(&eyes), ["eye"]);
    assert_eq!((&*eyes[0].plugin, eyes[0].models[0].kind), ("vision", ModelKind::Detect));
    assert!(prices(&eyes).iter().all(|price| Micros::ZERO < price.rates.per_call));
    let all = [eyes, vec![echo()]].concat();
    let demo = demo_models(&context(""), &all);
    assert_eq!(demo, (vec!["echo".to_owned()], vec!["eye".to_owned()]));
}

#[test]
fn models_that_listen_are_offered_and_do_not_chat() {
    let dir = tempfile::tempdir().unwrap();
    let catalogue = Catalogue::built_in().unwrap();
    assert!(ears(&catalogue, dir.path()).is_empty());
    fs::write(dir.path().join("whisper-base.safetensors"), "").unwrap();
    let ears = ears(&catalogue, dir.path());
    assert_eq!(names(&ears), ["whisper-base"]);
    assert_eq!((&*ears[0].plugin, ears[0].models[0].kind), ("speech", ModelKind::Transcribe));
    assert!(prices(&ears).iter().all(|price| Micros::ZERO < price.rates.input_per_mtok));
    assert!(local(&catalogue, dir.path()).is_empty());
    let demo = demo_models(&context(""), &[ears, vec![echo()]].concat());
    assert_eq!(demo, (vec!["echo".to_owned()], vec!["whisper-base".to_owned()]));
}
