//! A tenant to try Qudao with. Made once; a later start finds it by `demo.json` and makes only
//! what is missing, so that links and keys keep working.

use std::{fs, path::Path, time::Duration};

use anyhow::Context as _;
use qudao_channels::partner::{NewKeys, keep_keys};
use qudao_config::Instance;
use qudao_core::Core;
use qudao_domain::{
    AssistantId, ChannelId, Currency, InvitationId, Micros, TenantId,
    access::{Role, Scopes},
    key::{ApiKey, SecretHash, Ticket, TicketKind, random_secret},
    routing::Routing,
    state::{ChannelKind, FairCharging},
    text::{IdempotencyKey, Name, SystemPrompt},
};
use qudao_services::Services;
use qudao_storage::{
    CreditOutcome, CreditSource, MemberRole, NewApiKey, NewAssistant, NewChannel, NewCredit,
    NewInvitation, NewRoute, NewTenant, Store, Tx,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{context::Context, instances::demo_models, operator_key::write_secret};

const FILE: &str = "demo.json";
const PROMPT: &str = "You are a friendly assistant on the demo page of Qudao. Answer briefly, and \
                      in the language of the question. 请用提问的语言简短地回答。";
/// The address by which the demo's owner signs in. Nothing is sent there.
const OWNER: &str = "owner@example.com";
/// How long its link is good; each start makes another.
const WELCOME: Duration = Duration::from_secs(7 * 24 * 3600);
const GREETING: &str = "你好！有什么可以帮你？ · Hello! What can I do for you?";

/// How to reach the demo, for people and for tests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Demo {
    pub(crate) base_url: String,
    pub(crate) operator_key: String,
    pub(crate) tenant_id: TenantId,
    pub(crate) api_key: String,
    pub(crate) assistant_id: AssistantId,
    pub(crate) chat_url: String,
    /// Where an owner of the tenant comes in. Older files do not have it.
    #[serde(default)]
    pub(crate) console_url: String,
    pub(crate) database_url: String,
    /// A partner's channel in the sandbox. Older files do not have it.
    #[serde(default)]
    pub(crate) partner: Option<DemoPartner>,
}

/// What a partner is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DemoPartner {
    pub(crate) channel_id: ChannelId,
    pub(crate) bearer_key: String,
    pub(crate) signing_secret: String,
}

/// What the demo is made of.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) base_url: &'a str,
    pub(crate) operator_key: &'a str,
    pub(crate) database_url: &'a str,
    pub(crate) currency: Currency,
    pub(crate) credits: Micros,
    /// Which models answer on the chat page, the preferred first.
    pub(crate) models: Vec<String>,
    /// Models that the API key may use besides.
    pub(crate) others: Vec<String>,
}

impl<'a> Wanted<'a> {
    pub(crate) fn new(
        context: &Context,
        base_url: &'a str,
        operator_key: &'a str,
        services: &'a Services,
        instances: &[Instance],
    ) -> Self {
        let (models, others) = demo_models(context, instances);
        Self {
            base_url,
            operator_key,
            database_url: &services.database_url,
            currency: context.settings.demo.currency,
            credits: context.settings.demo.credits,
            models,
            others,
        }
    }
}

/// Makes what is missing and writes `demo.json`.
pub(crate) async fn prepare(core: &Core, home: &Path, wanted: &Wanted<'_>) -> anyhow::Result<Demo> {
    let store = &core.store;
    let path = home.join(FILE);
    let before: Option<Demo> =
        fs::read_to_string(&path).ok().and_then(|text| serde_json::from_str(&text).ok());
    let parts = match &before {
        Some(demo) => find(store, demo, wanted).await?,
        None => None,
    };
    let parts = match parts {
        Some(parts) => parts,
        None => make(store, before.as_ref(), wanted).await?,
    };
    let partner = Some(partner(core, before.as_ref(), &parts).await?);
    let demo = Demo {
        base_url: wanted.base_url.to_owned(),
        operator_key: wanted.operator_key.to_owned(),
        tenant_id: parts.tenant_id,
        api_key: parts.api_key,
        assistant_id: parts.assistant_id,
        chat_url: format!("{}/chat/{}", wanted.base_url, parts.public_key),
        console_url: console_url(store, wanted.base_url, parts.tenant_id).await?,
        database_url: wanted.database_url.to_owned(),
        partner,
    };
    let text = serde_json::to_string_pretty(&demo).context("writing the demo as JSON")?;
    write_secret(&path, &format!("{text}\n"))?;
    Ok(demo)
}

struct Parts {
    tenant_id: TenantId,
    api_key: String,
    assistant_id: AssistantId,
    public_key: String,
}

/// The former demo, if all of it is still there and the same models answer.
async fn find(store: &Store, demo: &Demo, wanted: &Wanted<'_>) -> anyhow::Result<Option<Parts>> {
    let Some(public_key) = demo.chat_url.rsplit('/').next() else { return Ok(None) };
    if !key_works(store, demo).await?
        || store.find_channel_by_public_key(public_key).await?.is_none()
    {
        return Ok(None);
    }
    let mut tx = store.begin(demo.tenant_id).await?;
    let Some(assistant) = tx.find_assistant(demo.assistant_id).await? else { return Ok(None) };
    let Some(route) = tx.find_route(assistant.route_id).await? else { return Ok(None) };
    if route.models != wanted.models {
        return Ok(None);
    }
    Ok(Some(Parts {
        tenant_id: demo.tenant_id,
        api_key: demo.api_key.clone(),
        assistant_id: demo.assistant_id,
        public_key: public_key.to_owned(),
    }))
}

/// A link by which somebody becomes the owner. Once somebody has, it leads to where they sign in.
async fn console_url(store: &Store, base_url: &str, tenant_id: TenantId) -> anyhow::Result<String> {
    let mut tx = store.begin(tenant_id).await?;
    if tx.member_by_email(OWNER).await?.is_some() {
        return Ok(format!("{base_url}/console#/{tenant_id}"));
    }
    let id = InvitationId::new();
    let ticket = Ticket::generate(TicketKind::Invitation, tenant_id, id.as_uuid());
    let new = NewInvitation {
        id,
        email: OWNER,
        role: MemberRole::Common(Role::Owner),
        secret_hash: &ticket.hash(),
        made_by: "operator",
        good_for: WELCOME,
    };
    tx.create_invitation(&new).await?;
    tx.commit().await?;
    Ok(format!("{base_url}/console#/invitation/{}", ticket.reveal()))
}

/// The partner's channel of the former demo, if its key still opens it, or a new one.
async fn partner(core: &Core, before: Option<&Demo>, parts: &Parts) -> anyhow::Result<DemoPartner> {
    let mut tx = core.store.begin(parts.tenant_id).await?;
    let former = before.filter(|demo| demo.tenant_id == parts.tenant_id);
    if let Some(former) = former.and_then(|demo| demo.partner.as_ref()) {
        let hash = SecretHash::of(&former.bearer_key);
        if tx.has_partner_key(former.channel_id, &hash).await? {
            return Ok(former.clone());
        }
    }
    let channel = NewChannel {
        id: ChannelId::new(),
        name: Name::parse("Partner (sandbox)").context("the channel's name")?,
        kind: ChannelKind::Partner,
        public_key: None,
        assistant_id: parts.assistant_id,
        locale: "en".to_owned(),
        settings: serde_json::Map::new(),
        secrets: None,
    };
    let channel_id = tx.create_channel(&channel).await?.id;
    let keys = NewKeys::generate(parts.tenant_id, false);
    keep_keys(&mut tx, core, channel_id, &keys, Duration::ZERO).await?;
    tx.commit().await?;
    let signing_secret = keys.secret.reveal();
    Ok(DemoPartner { channel_id, bearer_key: keys.bearer, signing_secret })
}

async fn key_works(store: &Store, demo: &Demo) -> anyhow::Result<bool> {
    let Some(key) = ApiKey::parse(&demo.api_key) else { return Ok(false) };
    let holder = store.find_api_key(key.id()).await?;
    Ok(holder.is_some_and(|holder| {
        holder.tenant_id == demo.tenant_id
            && holder.revoked_at.is_none()
            && holder.secret_hash.matches(&key.hash())
    }))
}

/// Makes the demo; keeps the tenant and the key of the former one if they still work.
async fn make(store: &Store, before: Option<&Demo>, wanted: &Wanted<'_>) -> anyhow::Result<Parts> {
    let name = Name::parse("Demo").context("the demo's name")?;
    let kept = match before {
        Some(demo) if key_works(store, demo).await? => Some(demo),
        _ => None,
    };
    let tenant_id = match kept {
        Some(demo) => demo.tenant_id,
        None => {
            let tenant = NewTenant {
                name: name.clone(),
                currency: wanted.currency,
                locale: "en".to_owned(),
                fair_charging: FairCharging::BillDelivered,
            };
            store.create_tenant(&tenant).await?.id
        }
    };
    let mut tx = store.begin(tenant_id).await?;
    add_credits(&mut tx, wanted.credits).await?;
    let route =
        NewRoute { name: name.clone(), models: wanted.models.clone(), routing: Routing::default() };
    let route_id = tx.create_route(&route).await?.id;
    // A key may use the models of all of its tenant's routes.
    for model in &wanted.others {
        let name = Name::parse(model).context("a model's name")?;
        tx.create_route(&NewRoute {
            name,
            models: vec![model.clone()],
            routing: Routing::default(),
        })
        .await?;
    }
    let assistant = NewAssistant {
        name: name.clone(),
        system_prompt: SystemPrompt::parse(PROMPT).context("the demo's prompt")?,
        greeting: GREETING.to_owned(),
        params: json!({}),
        route_id,
    };
    let assistant_id = tx.create_assistant(&assistant).await?.id;
    let public_key = format!("wk_{}", &random_secret()[..22]);
    let channel = NewChannel::web(name.clone(), public_key.clone(), assistant_id, "en".to_owned());
    tx.create_channel(&channel).await?;
    let api_key = match kept {
        Some(demo) => demo.api_key.clone(),
        None => {
            let key = ApiKey::generate();
            tx.create_api_key(&NewApiKey::new(name, &key, Scopes::ALL)).await?;
            key.reveal()
        }
    };
    tx.commit().await?;
    Ok(Parts { tenant_id, api_key, assistant_id, public_key })
}

async fn add_credits(tx: &mut Tx, amount: Micros) -> anyhow::Result<()> {
    let credit = NewCredit {
        idempotency_key: IdempotencyKey::parse("demo-credits").context("the credits' key")?,
        amount,
        source: CreditSource::Bonus,
        note: "credits of the demo".to_owned(),
    };
    match tx.add_credit(&credit).await? {
        CreditOutcome::Added { .. } | CreditOutcome::Repeated { .. } => Ok(()),
        // The setting was changed since: what was given stays.
        CreditOutcome::KeyReused => Ok(()),
    }
}
