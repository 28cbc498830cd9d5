//! How rules and a canary are written, for the API description. What comes is read into the domain's
//! own types, which have the same form; a test compares the two.
#![expect(dead_code, reason = "the description's types hold nothing")]

use utoipa::ToSchema;

use super::ModelName;

/// Who answers, if all conditions hold.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RouteRule {
    /// What it is called in decision records.
    #[schema(min_length = 1, max_length = 120, pattern = r"^[^\x00]*[^\s\x00\x85][^\x00]*$")]
    name: String,
    /// All of them have to hold; without any it always matches.
    #[schema(max_items = 16, required = false, default = json!([]))]
    when: Vec<RouteCondition>,
    /// Who answers then, and nobody else.
    #[schema(min_items = 1, max_items = 20)]
    targets: Vec<RouteTarget>,
    /// Models to which words leave the machine are passed over.
    #[schema(required = false, default = false)]
    local_only: bool,
    /// Whether the route's canary may take part in what this rule matches.
    #[schema(required = false, default = false)]
    canary: bool,
}

/// A model that may answer.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RouteTarget {
    #[schema(value_type = ModelName)]
    model: String,
    /// Targets with a weight share what comes; those without one are asked after them, in order.
    #[schema(minimum = 1, maximum = 1000)]
    weight: Option<u32>,
}

/// Something about a message, or about the platform at that moment. It does not hold where its signal
/// cannot be had.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[serde(tag = "signal", rename_all = "snake_case")]
pub(crate) enum RouteCondition {
    /// How the messages to answer sound, by the route's `sentiment_model`.
    Sentiment {
        /// The classes, as the model calls them.
        #[schema(min_items = 1, max_items = 20, value_type = Vec<Label>)]
        any_of: Vec<String>,
        /// The least probability.
        #[schema(minimum = 0, maximum = 1)]
        at_least: Option<f64>,
    },
    /// In which language the messages to answer are.
    Language {
        /// Codes of ISO 639-1.
        #[schema(min_items = 1, max_items = 20, value_type = Vec<LanguageCode>)]
        any_of: Vec<String>,
    },
    /// Personal data among all that a model would read, earlier messages included.
    PersonalData {
        /// Kinds of it.
        #[schema(min_items = 1, max_items = 20)]
        any_of: Vec<PersonalKind>,
    },
    /// How many characters the messages to answer have.
    Characters {
        /// At least so many.
        #[schema(maximum = 1_000_000_000)]
        at_least: Option<u64>,
        /// At most so many.
        #[schema(maximum = 1_000_000_000)]
        at_most: Option<u64>,
    },
    /// How many tokens a model would read, estimated as a fourth of the bytes.
    PromptTokens {
        /// At least so many.
        #[schema(maximum = 1_000_000_000)]
        at_least: Option<u64>,
        /// At most so many.
        #[schema(maximum = 1_000_000_000)]
        at_most: Option<u64>,
    },
    /// What the messages to answer are made of.
    Modality {
        /// One of these at least is among them.
        #[schema(min_items = 1, max_items = 20)]
        any_of: Vec<ModalityKind>,
    },
    /// What the tenant can spend.
    Balance {
        /// Less than this, in the tenant's currency.
        #[schema(pattern = r"^[0-9]{1,12}(\.[0-9]{1,6})?$")]
        below: String,
    },
    /// What the tenant was charged since the month began, in UTC.
    SpentThisMonth {
        /// This or more, in the tenant's currency.
        #[schema(pattern = r"^[0-9]{1,12}(\.[0-9]{1,6})?$")]
        at_least: String,
    },
    /// How a model does.
    Health {
        #[schema(value_type = ModelName)]
        model: String,
        /// In one of these states.
        #[schema(min_items = 1, max_items = 20)]
        any_of: Vec<HealthState>,
    },
}

/// A class of a model.
#[derive(ToSchema)]
#[schema(min_length = 1, max_length = 100, pattern = r"^[^\x00]*$")]
pub(crate) struct Label(String);

/// A code of ISO 639-1, or of ISO 639-3 where a language has no other.
#[derive(ToSchema)]
#[schema(pattern = "^[a-z]{2,3}$", example = "zh")]
pub(crate) struct LanguageCode(String);

/// A kind of personal data that is told by its form.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(crate) enum PersonalKind {
    Any,
    Email,
    Phone,
    Card,
    NationalId,
}

/// What messages are made of.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(crate) enum ModalityKind {
    Text,
    Image,
    Audio,
    Video,
    File,
}

/// How a model does.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(crate) enum HealthState {
    Closed,
    HalfOpen,
    Open,
}

/// A model that is tried on a part of the traffic.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RouteCanary {
    #[schema(value_type = ModelName)]
    model: String,
    mode: CanaryKind,
    /// How much of the traffic it sees, of a hundred conversations.
    #[schema(minimum = 1, maximum = 100)]
    percent: u32,
    #[schema(required = false)]
    paid_by: PayerKind,
    /// How answers of a shadow are compared with those that were given.
    agreement: Option<AgreementKind>,
    #[schema(required = false)]
    rollback: RollbackRules,
    #[schema(required = false)]
    state: CanaryStanding,
}

/// Whether people get the answers of a model on trial.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(crate) enum CanaryKind {
    Live,
    Shadow,
}

/// Who pays for the calls of a shadow, the tenant if left out; only the operator can have the operator pay.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(crate) enum PayerKind {
    Tenant,
    Operator,
}

/// How two answers are compared.
#[derive(ToSchema)]
#[serde(tag = "by", rename_all = "snake_case")]
pub(crate) enum AgreementKind {
    /// 1 where they have the same letters and digits, else 0.
    Text,
    /// The cosine of their vectors.
    Embedding {
        #[schema(value_type = ModelName)]
        model: String,
    },
    /// 1 where they are of one class, else 0.
    Label {
        #[schema(value_type = ModelName)]
        model: String,
    },
}

/// When a model on trial is taken back.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RollbackRules {
    /// Over how many minutes is compared.
    #[schema(minimum = 1, maximum = 10_080, required = false, default = 60)]
    window_minutes: u32,
    /// Not before the canary had so many calls.
    #[schema(minimum = 1, maximum = 100_000, required = false, default = 20)]
    min_calls: u32,
    /// When its share of failed calls is higher than that of the others by more than this.
    #[schema(minimum = 0, maximum = 1, required = false, default = 0.05)]
    error_rate_above: f64,
    /// When it takes more than so many times as long as the others, on average.
    #[schema(minimum = 1, maximum = 1000, required = false, default = 2.0)]
    latency_ratio_above: f64,
    /// When its answers agree less than this on average.
    #[schema(minimum = 0, maximum = 1, required = false, default = 0.0)]
    agreement_below: f64,
}

/// Whether a canary runs: `rolled_back` once it was taken back; `running` begins anew.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(crate) enum CanaryStanding {
    Running,
    RolledBack,
}
