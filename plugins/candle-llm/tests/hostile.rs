//! Model files that were made to do harm. Each is refused with its reason, fast, and without
//! the memory that it asks for; the table is printed by `cargo xtask check plugins`.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]
#![expect(clippy::print_stdout, reason = "the table of what each file got")]

use std::{
    path::Path,
    time::{Duration, Instant},
};

use qudao_plugin_candle_llm::{config::Config, engine::Engine};

const HIDDEN: u64 = 64;
const INNER: u64 = 96;
const VOCABULARY: u64 = 80;
/// The most that a refusal may take of memory, in kibibytes, and of time in an unoptimised build.
const MEMORY_KIB_MAX: u64 = 160 << 10;
const TIME_MAX: Duration = Duration::from_secs(20);

/// A value with the number of its type.
#[derive(Clone)]
struct Typed(u32, Vec<u8>);

fn text(text: &str) -> Typed {
    Typed(8, counted(text.as_bytes()))
}

fn number(number: u32) -> Typed {
    Typed(4, number.to_le_bytes().to_vec())
}

fn fraction(fraction: f32) -> Typed {
    Typed(6, fraction.to_le_bytes().to_vec())
}

fn counted(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes(), bytes].concat()
}

/// A list of a type, which claims to have so many items.
fn list(kind: u32, count: u64, items: &[Vec<u8>]) -> Typed {
    let head = [kind.to_le_bytes().as_slice(), &count.to_le_bytes()].concat();
    Typed(9, [head, items.concat()].concat())
}

#[derive(Clone)]
struct Tensor {
    name: String,
    dimensions: Vec<u64>,
    kind: u32,
    from: u64,
}

/// A model file as its parts, so that each can be told to lie.
struct Crafted {
    magic: [u8; 4],
    version: u32,
    tensor_count: Option<u64>,
    key_count: Option<u64>,
    keys: Vec<(String, Typed)>,
    tensors: Vec<Tensor>,
    weights: u64,
}

impl Crafted {
    /// One that loads: a llama of one layer that knows eighty tokens.
    fn good() -> Self {
        let mut crafted = Self {
            magic: *b"GGUF",
            version: 3,
            tensor_count: None,
            key_count: None,
            keys: Vec::new(),
            tensors: Vec::new(),
            weights: 0,
        };
        let tokens: Vec<Vec<u8>> =
            (0..VOCABULARY).map(|token| counted(format!("t{token}").as_bytes())).collect();
        for (key, value) in [
            ("general.architecture", text("llama")),
            ("llama.embedding_length", number(64)),
            ("llama.feed_forward_length", number(96)),
            ("llama.block_count", number(1)),
            ("llama.attention.head_count", number(4)),
            ("llama.attention.head_count_kv", number(2)),
            ("llama.attention.layer_norm_rms_epsilon", fraction(1e-5)),
            ("llama.context_length", number(256)),
            ("llama.rope.freq_base", fraction(10_000.0)),
            ("tokenizer.ggml.model", text("gpt2")),
            ("tokenizer.ggml.tokens", list(8, VOCABULARY, &tokens)),
            ("tokenizer.ggml.merges", list(8, 0, &[])),
            ("tokenizer.chat_template", text("{{ messages[0].content }}")),
        ] {
            crafted.keys.push((key.to_owned(), value));
        }
        for (name, dimensions) in [
            ("token_embd.weight", vec![HIDDEN, VOCABULARY]),
            ("output_norm.weight", vec![HIDDEN]),
            ("blk.0.attn_norm.weight", vec![HIDDEN]),
            ("blk.0.ffn_norm.weight", vec![HIDDEN]),
            ("blk.0.attn_q.weight", vec![HIDDEN, 64]),
            ("blk.0.attn_k.weight", vec![HIDDEN, 32]),
            ("blk.0.attn_v.weight", vec![HIDDEN, 32]),
            ("blk.0.attn_output.weight", vec![64, HIDDEN]),
            ("blk.0.ffn_gate.weight", vec![HIDDEN, INNER]),
            ("blk.0.ffn_up.weight", vec![HIDDEN, INNER]),
            ("blk.0.ffn_down.weight", vec![INNER, HIDDEN]),
        ] {
            crafted.add(name, dimensions);
        }
        crafted
    }

    fn add(&mut self, name: &str, dimensions: Vec<u64>) {
        let length: u64 = dimensions.iter().product::<u64>() * 4;
        let from = self.weights;
        self.weights += length.next_multiple_of(32);
        self.tensors.push(Tensor { name: name.to_owned(), dimensions, kind: 0, from });
    }

    fn set(&mut self, key: &str, value: Typed) {
        self.keys.retain(|(name, _)| name != key);
        self.keys.push((key.to_owned(), value));
    }

    fn drop(&mut self, key: &str) {
        self.keys.retain(|(name, _)| name != key);
    }

    fn header(&self) -> Vec<u8> {
        let mut bytes = self.magic.to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        bytes.extend(self.key_count.unwrap_or(self.keys.len() as u64).to_le_bytes());
        for (key, Typed(kind, value)) in &self.keys {
            bytes.extend(counted(key.as_bytes()));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(value);
        }
        for tensor in &self.tensors {
            bytes.extend(counted(tensor.name.as_bytes()));
            bytes.extend(u32::try_from(tensor.dimensions.len()).unwrap().to_le_bytes());
            tensor.dimensions.iter().for_each(|width| bytes.extend(width.to_le_bytes()));
            bytes.extend(tensor.kind.to_le_bytes());
            bytes.extend(tensor.from.to_le_bytes());
        }
        bytes
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.header();
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        // All weights are a small number, so that norms divide by something.
        for _ in 0..self.weights / 4 {
            bytes.extend(0.01f32.to_le_bytes());
        }
        bytes
    }
}

/// A name, the change, and a part of the reason.
type Attempt = (&'static str, fn(&mut Crafted), &'static str);

const ATTEMPTS: &[Attempt] = &[
    ("another format", |c| c.magic = *b"GGML", "not a GGUF file"),
    ("a version of the future", |c| c.version = 4_000_000_000, "version 4000000000"),
    ("the first version, with its other lengths", |c| c.version = 1, "version 1"),
    ("2⁶³ tensors", |c| c.tensor_count = Some(1 << 63), "tensors, at most"),
    ("2⁶⁴-1 keys", |c| c.key_count = Some(u64::MAX), "keys, at most"),
    ("more tensors than there are", |c| c.tensor_count = Some(60_000), "header"),
    ("more keys than there are", |c| c.key_count = Some(60_000), "header"),
    ("a key without a name", |c| c.keys.push((String::new(), number(1))), "a name of 0 bytes"),
    (
        "a text of 2⁶³ bytes",
        |c| c.set("general.name", Typed(8, (1u64 << 63).to_le_bytes().to_vec())),
        "of 9223372036854775808 bytes",
    ),
    (
        "a text longer than the file",
        |c| c.set("general.name", Typed(8, 1_000_000u64.to_le_bytes().to_vec())),
        "does not fit in the file",
    ),
    (
        "a list of 2⁶³ items",
        |c| c.set("general.tags", list(8, 1 << 63, &[])),
        "all lists together at most",
    ),
    (
        "a list of a hundred million bytes, 3 GB as values",
        |c| c.set("general.tags", list(0, 100_000_000, &[vec![0; 100_000_000]])),
        "all lists together at most",
    ),
    (
        "lists of lists of lists",
        |c| {
            let mut deep = list(0, 1, &[vec![1]]).1;
            for _ in 0..10_000 {
                deep = [9u32.to_le_bytes().as_slice(), &1u64.to_le_bytes(), &deep].concat();
            }
            c.set("general.tags", Typed(9, deep));
        },
        "is a list of lists",
    ),
    ("a value of an unknown type", |c| c.set("general.x", Typed(99, vec![0; 8])), "unknown type"),
    (
        "a list of an unknown type",
        |c| c.set("general.x", list(77, 1, &[vec![0; 8]])),
        "a list of the unknown type",
    ),
    ("a truth value of 2", |c| c.set("general.x", Typed(7, vec![2])), "neither true nor false"),
    (
        "a key twice",
        |c| c.keys.push(("general.architecture".to_owned(), text("llama"))),
        "there twice",
    ),
    (
        "an alignment of zero, which candle divides by",
        |c| c.set("general.alignment", number(0)),
        "no power of two",
    ),
    (
        "an alignment beyond the file",
        |c| c.set("general.alignment", number(1 << 31)),
        "no power of two",
    ),
    ("a tensor of no dimension", |c| c.tensors[0].dimensions = vec![], "0 dimensions"),
    ("a tensor of five dimensions", |c| c.tensors[0].dimensions = vec![1; 5], "5 dimensions"),
    (
        "a dimension of zero",
        |c| c.tensors[0].dimensions = vec![64, 0],
        "an impossible dimension of 0",
    ),
    (
        "dimensions whose product overflows to a small one",
        |c| c.tensors[0].dimensions = vec![1 << 32, 1 << 32, 80],
        "an impossible dimension",
    ),
    ("a tensor of a terabyte", |c| c.tensors[0].dimensions = vec![64, 1 << 32], "is truncated"),
    ("a tensor that begins beyond the file", |c| c.tensors[3].from = 1 << 62, "is truncated"),
    (
        "an offset that overflows with its length",
        |c| c.tensors[3].from = u64::MAX - 31,
        "is truncated",
    ),
    ("a tensor between two places", |c| c.tensors[3].from += 1, "no multiple of 32"),
    ("a tensor in another one", |c| c.tensors[1].from = 32, "lies in another one"),
    ("a tensor twice", |c| c.tensors[2].name = "output_norm.weight".to_owned(), "there twice"),
    ("a tensor of an unknown type", |c| c.tensors[0].kind = 4_000, "unknown type 4000"),
    (
        "rows that are no whole blocks",
        |c| {
            c.tensors[8].kind = 12;
            c.tensors[8].dimensions = vec![HIDDEN, INNER];
        },
        "not whole blocks of 256",
    ),
    ("no architecture", |c| c.drop("general.architecture"), "general.architecture"),
    (
        "an architecture that nobody knows",
        |c| c.set("general.architecture", text("evil")),
        "`evil` is not supported",
    ),
    (
        "an architecture that is a number",
        |c| c.set("general.architecture", number(7)),
        "general.architecture",
    ),
    (
        "no heads, by which the width is divided",
        |c| c.set("llama.attention.head_count", number(0)),
        "attention.head_count",
    ),
    ("four billion layers", |c| c.set("llama.block_count", number(u32::MAX)), "block_count"),
    (
        "a width of 2³² - 32",
        |c| c.set("llama.embedding_length", number(u32::MAX - 31)),
        "lacks a usable",
    ),
    (
        "a head of two billion values",
        |c| c.set("llama.attention.key_length", number(1 << 31)),
        "dimension_count",
    ),
    (
        "a context of 2³² tokens",
        |c| c.set("llama.context_length", number(u32::MAX)),
        "context_length",
    ),
    (
        "norms that divide by what is no number",
        |c| c.set("llama.attention.layer_norm_rms_epsilon", fraction(f32::NAN)),
        "layer_norm_rms_epsilon",
    ),
    (
        "angles of an infinite base",
        |c| c.set("llama.rope.freq_base", fraction(f32::INFINITY)),
        "rope.freq_base",
    ),
    ("a weight of another shape", |c| c.tensors[4].dimensions = vec![64, 63], "has shape"),
    (
        "a weight that is not there",
        |c| {
            c.tensors.remove(10);
        },
        "blk.0.ffn_down.weight",
    ),
    ("no tokens", |c| c.drop("tokenizer.ggml.tokens"), "no usable tokenizer"),
    (
        "tokens that are numbers",
        |c| c.set("tokenizer.ggml.tokens", list(4, 2, &[vec![0; 4], vec![0; 4]])),
        "a token that is no text",
    ),
    (
        "a tokenizer that nobody knows",
        |c| c.set("tokenizer.ggml.model", text("evil")),
        "`evil` is not supported",
    ),
    (
        "merges of tokens that are not there",
        |c| c.set("tokenizer.ggml.merges", list(8, 1, &[counted(b"no where")])),
        "no usable tokenizer",
    ),
    (
        "tokens of a thousand letters each",
        |c| {
            let long: Vec<Vec<u8>> = (0..2_000)
                .map(|token| counted(format!("{token:04}{}", "a".repeat(4_000)).as_bytes()))
                .collect();
            c.set("tokenizer.ggml.tokens", list(8, 2_000, &long));
        },
        "tokens are too long",
    ),
    (
        "a template that is none",
        |c| c.set("tokenizer.chat_template", text("{% for %}")),
        "chat template",
    ),
    (
        "a template that never ends",
        |c| {
            let template = "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = a * b %}\
                {% endfor %}{% endfor %}";
            c.set("tokenizer.chat_template", text(template));
        },
        "fuel",
    ),
    (
        "a template that calls itself",
        |c| {
            let template = "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}";
            c.set("tokenizer.chat_template", text(template));
        },
        "chat template",
    ),
    (
        "a template that writes gigabytes",
        |c| {
            let template =
                "{% set x = 'x' * 1000000 %}{% for a in range(99999) %}{{ x }}{% endfor %}";
            c.set("tokenizer.chat_template", text(template));
        },
        "chat template",
    ),
    (
        "a template that doubles a text",
        |c| {
            let template = "{% set n = namespace(x='xxxxxxxx') %}{% for a in range(60) %}\
                {% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}";
            c.set("tokenizer.chat_template", text(template));
        },
        "chat template",
    ),
    (
        "a template that replaces nothing by much",
        |c| {
            let template = "{% set x = 'x' * 1000000 %}{{ x.replace('', x).replace('x', x) }}";
            c.set("tokenizer.chat_template", text(template));
        },
        "chat template",
    ),
    (
        "a template of a hundred thousand brackets",
        |c| c.set("tokenizer.chat_template", text(&format!("{{{{ {}", "(".repeat(100_000)))),
        "chat template",
    ),
    (
        "a template of two megabytes",
        |c| c.set("tokenizer.chat_template", text(&"x".repeat(2 << 20))),
        "tokenizer.chat_template of",
    ),
];

fn load(path: &Path) -> Result<(), String> {
    let config = Config { threads: Some(1), ..Config::new(path) };
    Engine::load(&config, &mut |_| ()).map(drop).map_err(|error| error.to_string())
}

/// The most memory that this process has held since the last call, in kibibytes.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    line.trim().strip_suffix("kB").unwrap().trim().parse().unwrap()
}

/// Loads the file within its bounds; shows what came of it.
fn attempt(name: &str, path: &Path, expected: &str) {
    let size_kib = std::fs::metadata(path).unwrap().len() >> 10;
    peak_kib();
    let before = peak_kib();
    let began = Instant::now();
    let refused = load(path);
    let (took, grown) = (began.elapsed(), peak_kib().saturating_sub(before));
    let shown = path.display().to_string();
    let reason = refused.clone().err().unwrap_or("LOADS".to_owned()).replace(&shown, "it");
    let line: String = reason.lines().next().unwrap_or_default().chars().take(110).collect();
    println!("{name:<52} {:>5} ms {:>5} MiB  {line}", took.as_millis(), grown >> 10);
    if !expected.is_empty() {
        let reason = refused.expect_err(name);
        assert!(reason.contains(expected), "{name}: {reason}");
    }
    assert!(took < TIME_MAX, "{name}: {took:?}");
    assert!(grown < MEMORY_KIB_MAX + size_kib, "{name}: {grown} KiB");
}

#[test]
fn model_files_that_were_made_to_do_harm_are_refused_each_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crafted.gguf");
    std::fs::write(&path, Crafted::good().bytes()).unwrap();
    load(&path).expect("what is changed below loads as long as it is not");
    for (name, change, expected) in ATTEMPTS {
        let mut crafted = Crafted::good();
        change(&mut crafted);
        std::fs::write(&path, crafted.bytes()).unwrap();
        attempt(name, &path, expected);
    }
    std::fs::write(&path, "").unwrap();
    attempt("an empty file", &path, "not a GGUF file");
    attempt("a folder", folder.path(), "");
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
    attempt("an endless device", &path, "not a GGUF file");
}

#[test]
fn a_file_that_ends_anywhere_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("short.gguf");
    let good = Crafted::good();
    let (bytes, header) = (good.bytes(), good.header().len());
    let inside = (0..header).step_by(7);
    let weights = (header..bytes.len()).step_by(4_999);
    let mut refused = 0;
    for end in inside.chain(weights).chain([bytes.len() - 1]) {
        std::fs::write(&path, &bytes[..end]).unwrap();
        let reason = load(&path).expect_err("a file without its end");
        let known = ["not a GGUF file", "header", "truncated"];
        assert!(known.iter().any(|known| reason.contains(known)), "{end}: {reason}");
        refused += 1;
    }
    println!("{:<52} {refused} of {refused} refused", "a file that ends early, at each boundary");
}

#[test]
fn a_file_with_a_few_bytes_changed_is_refused_or_loads_and_ends_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("changed.gguf");
    let good = Crafted::good();
    let (bytes, header) = (good.bytes(), good.header().len());
    let mut random = 88_172_645_463_325_252u64;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random % below as u64).unwrap()
    };
    let mut refused = 0;
    for _ in 0..300 {
        let mut changed = bytes.clone();
        for _ in 0..=next(3) {
            let at = next(header);
            changed[at] = [0, 1, 0x7f, 0x80, 0xff, u8::try_from(next(256)).unwrap()][next(6)];
        }
        std::fs::write(&path, changed).unwrap();
        refused += usize::from(load(&path).is_err());
    }
    println!(
        "{:<52} {refused} of 300 refused, 0 panics",
        "up to three bytes of the header at random"
    );
}
