//! Which plugins run with which settings: what the operator lists, or what is found here.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use qudao_billing::Rates;
use qudao_config::{DataClass, Instance, Model, ModelKind, Placement, PluginTimeouts, Price};
use qudao_domain::{Currency, Micros};
use qudao_models::Catalogue;
use qudao_storage::ModelPrice;
use serde_json::{Value, json};

use crate::context::{Context, variable};

/// What a look at a picture costs, in yuan.
const LOOK: Micros = Micros::new(700);
/// What a million seconds of speech cost to write down, in yuan: 0.012 a minute.
const MILLION_SECONDS: &str = "200";
/// The longest sound that is listened to, in seconds.
const SOUND_SECONDS: u32 = 600;
const OPENAI_KEY: &str = "OPENAI_API_KEY";
const OPENAI_BASE_URL: &str = "QUDAO_OPENAI_BASE_URL";
const OPENAI_MODELS: &str = "QUDAO_OPENAI_MODELS";
/// What a local model's conversation may hold unless an operator says otherwise; memory grows
/// with it.
const LOCAL_CONTEXT: u32 = 4096;

/// The instances to run and whether an operator listed them.
pub(crate) fn decide(context: &Context) -> anyhow::Result<Vec<Instance>> {
    if !context.settings.instances.is_empty() {
        return Ok(context.settings.instances.clone());
    }
    let catalogue = catalogue(context)?;
    let mut instances = local(&catalogue, &context.models_dir());
    instances.extend(eyes(&context.models_dir()));
    instances.extend(ears(&catalogue, &context.models_dir()));
    instances.push(echo());
    instances.extend(openai());
    Ok(instances)
}

/// The configured catalogue, else the built-in one.
pub(crate) fn catalogue(context: &Context) -> anyhow::Result<Catalogue> {
    match &context.settings.models.catalogue {
        Some(path) => Catalogue::read(path).context("setting models.catalogue"),
        None => Ok(Catalogue::built_in()?),
    }
}

/// An instance for each model of the catalogue whose file is here; those that chat in Chinese go
/// first, since they chat in English too.
fn local(catalogue: &Catalogue, dir: &Path) -> Vec<Instance> {
    let mut present: Vec<&qudao_models::Model> = catalogue
        .models
        .iter()
        .filter(|model| model.chats() && dir.join(model.file_name()).is_file())
        .collect();
    present.sort_by_key(|model| !model.languages.iter().any(|language| language == "zh"));
    let instance = |model: &&qudao_models::Model| {
        let context_tokens = model.context_tokens.min(LOCAL_CONTEXT);
        let config = json!({
            "path": dir.join(model.file_name()),
            "context_tokens": context_tokens,
        });
        Instance {
            name: model.name.clone(),
            plugin: "candle-llm".to_owned(),
            placement: Placement::Process,
            max_concurrency: None,
            timeouts: PluginTimeouts::default(),
            env: Vec::new(),
            config: object(config),
            models: vec![offered(&model.name, context_tokens, DataClass::Local, "0.5", "1")],
        }
    };
    present.iter().map(instance).collect()
}

/// An instance for each detector that is here. A look costs the same whatever is in the picture.
fn eyes(dir: &Path) -> Vec<Instance> {
    let eye = |(name, path): (String, PathBuf)| {
        let mut model = offered(&name, 1, DataClass::Local, "0", "0");
        model.kind = ModelKind::Detect;
        for price in &mut model.prices {
            let parts = if price.currency == Currency::CNY { 1 } else { 7 };
            price.per_call = Micros::new(LOOK.get() / parts);
        }
        Instance {
            name,
            plugin: "vision".to_owned(),
            placement: Placement::Process,
            max_concurrency: None,
            timeouts: PluginTimeouts::default(),
            env: Vec::new(),
            config: object(json!({ "path": path })),
            models: vec![model],
        }
    };
    qudao_models::detectors(dir).into_iter().map(eye).collect()
}

/// An instance for each model of the catalogue that listens and whose file is here. A second of a sound
/// counts as a token.
fn ears(catalogue: &Catalogue, dir: &Path) -> Vec<Instance> {
    let here =
        |model: &&qudao_models::Model| model.listens() && dir.join(model.file_name()).is_file();
    let ear = |model: &qudao_models::Model| {
        let config = json!({ "path": dir.join(model.file_name()), "max_seconds": SOUND_SECONDS });
        let mut offered =
            offered(&model.name, SOUND_SECONDS, DataClass::Local, MILLION_SECONDS, "0");
        offered.kind = ModelKind::Transcribe;
        Instance {
            name: model.name.clone(),
            plugin: "speech".to_owned(),
            placement: Placement::Process,
            max_concurrency: None,
            timeouts: PluginTimeouts::default(),
            env: Vec::new(),
            config: object(config),
            models: vec![offered],
        }
    };
    catalogue.models.iter().filter(here).map(ear).collect()
}

fn echo() -> Instance {
    Instance {
        name: "echo".to_owned(),
        plugin: "echo".to_owned(),
        placement: Placement::Process,
        max_concurrency: None,
        timeouts: PluginTimeouts::default(),
        env: Vec::new(),
        config: BTreeMap::new(),
        models: vec![offered("echo", LOCAL_CONTEXT, DataClass::Local, "0.1", "0.1")],
    }
}

/// The openai plugin if the environment says where to: a key, or a server that may need none.
fn openai() -> Option<Instance> {
    let (key, base_url) = (variable(OPENAI_KEY), variable(OPENAI_BASE_URL));
    if key.is_none() && base_url.is_none() {
        return None;
    }
    let base_url = base_url.unwrap_or_else(|| "https://api.openai.com/v1".to_owned());
    let mut config = json!({ "base_url": base_url });
    if key.is_some() {
        config["api_key_env"] = json!(OPENAI_KEY);
    }
    let names = variable(OPENAI_MODELS).unwrap_or_else(|| "gpt-4o-mini".to_owned());
    let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
    Some(Instance {
        name: "openai".to_owned(),
        plugin: "openai".to_owned(),
        placement: Placement::Process,
        max_concurrency: None,
        timeouts: PluginTimeouts::default(),
        env: key.iter().map(|_| OPENAI_KEY.to_owned()).collect(),
        config: object(config),
        models: names.map(|name| offered(name, 128_000, DataClass::Remote, "1.2", "4.8")).collect(),
    })
}

/// A model at default prices, the same number in yuan and a seventh of it in dollars.
fn offered(
    name: &str,
    context_tokens: u32,
    data_class: DataClass,
    input: &str,
    output: &str,
) -> Model {
    let amount = |text: &str| text.parse::<Micros>().unwrap_or(Micros::UNIT);
    let price = |currency, parts: i64| Price {
        currency,
        input_per_mtok: Micros::new(amount(input).get() / parts),
        output_per_mtok: Micros::new(amount(output).get() / parts),
        per_call: Micros::ZERO,
    };
    Model {
        name: name.to_owned(),
        upstream: None,
        kind: ModelKind::Chat,
        context_tokens,
        max_output_tokens: 1024,
        data_class,
        prices: vec![price(Currency::CNY, 1), price(Currency::USD, 7)],
    }
}

fn object(value: Value) -> BTreeMap<String, Value> {
    match value {
        Value::Object(map) => map.into_iter().collect(),
        _ => BTreeMap::new(),
    }
}

/// What the price book should say.
pub(crate) fn prices(instances: &[Instance]) -> Vec<ModelPrice> {
    let models = instances.iter().flat_map(|instance| &instance.models);
    let rows = models.flat_map(|model| model.prices.iter().map(move |price| (model, price)));
    rows.map(|(model, price)| ModelPrice {
        model: model.name.clone(),
        currency: price.currency,
        rates: Rates {
            input_per_mtok: price.input_per_mtok,
            output_per_mtok: price.output_per_mtok,
            per_call: price.per_call,
        },
    })
    .collect()
}

/// The names of the models that answer people on the demo's page, the preferred first, and of
/// those that only its key may use.
pub(crate) fn demo_models(context: &Context, instances: &[Instance]) -> (Vec<String>, Vec<String>) {
    let all = || {
        instances
            .iter()
            .flat_map(|instance| instance.models.iter().map(move |model| (instance, model)))
    };
    let preferred = context.settings.demo.model.clone();
    let mut answering: Vec<String> = all()
        .filter(|(instance, model)| {
            instance.plugin != "echo"
                && model.kind == ModelKind::Chat
                && model.data_class == DataClass::Local
        })
        .map(|(_, model)| model.name.clone())
        .collect();
    if let Some(preferred) = preferred {
        answering.retain(|name| *name != preferred);
        answering.insert(0, preferred);
    }
    let mut others: Vec<String> = all().map(|(_, model)| model.name.clone()).collect();
    others.retain(|name| !answering.contains(name));
    let chats = |name: &String| {
        all().any(|(_, model)| model.name == *name && model.kind == ModelKind::Chat)
    };
    if answering.is_empty()
        && let Some(at) = others.iter().position(chats)
    {
        answering.push(others.remove(at));
    }
    (answering, others)
}

#[cfg(test)]
mod tests;
