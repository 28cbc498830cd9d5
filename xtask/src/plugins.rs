//! Builds the plugins and lays them out, signed, where the platform looks for them.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use qudao_plugin_api::manifest::public_key;
use qudao_plugin_host::{pack, signing_key};

/// A plugin of the workspace.
struct Member {
    /// Its folder below `plugins/`.
    name: &'static str,
    /// Whether its speed depends on the features of the processor it runs on.
    native: bool,
    /// Whether a platform that is not under test has a use for it.
    shipped: bool,
    /// A program that is laid out beside it, as its package is called.
    program: Option<&'static str>,
}

const MEMBERS: &[Member] = &[
    Member { name: "candle-llm", native: true, shipped: true, program: Some("qudao-quantize") },
    Member { name: "embedder", native: true, shipped: true, program: None },
    Member { name: "sentiment", native: true, shipped: true, program: None },
    Member { name: "speech", native: true, shipped: true, program: None },
    Member { name: "echo", native: false, shipped: true, program: None },
    Member { name: "openai", native: false, shipped: true, program: None },
    Member { name: "rogue", native: false, shipped: false, program: None },
    Member { name: "vision", native: true, shipped: true, program: None },
];

/// `cargo xtask plugins`
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these, by folder, with commas between; all that are shipped when absent.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Unoptimised, for tests. Language models are optimised all the same.
    #[arg(long)]
    dev: bool,
    /// Those that need no optimised code were built by `scripts/build-tests.sh`.
    #[arg(long, requires = "dev")]
    built: bool,
    /// Where to lay them out.
    #[arg(long, default_value = "dist/plugins")]
    out: PathBuf,
    /// The secret key that signs the manifests, made when absent.
    #[arg(long, default_value = "dist/signing.key")]
    key: PathBuf,
    /// For x86-64-v3 processors instead of this machine's.
    #[arg(long, env = "QUDAO_PORTABLE", value_parser = clap::builder::FalseyValueParser::new())]
    portable: bool,
}

impl Args {
    /// What the checks under faults load, laid out where the tests' plugins are.
    pub(crate) fn for_tests() -> Self {
        Self {
            only: vec!["rogue".to_owned()],
            dev: true,
            built: true,
            out: "target/chaos-plugins".into(),
            key: "dist/signing.key".into(),
            portable: false,
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let members = chosen(&args.only)?;
    let built = build(&members, args)?;
    let out = crate::root().join(&args.out);
    let key_file = crate::root().join(&args.key);
    let secret = signing_key(&key_file)?;
    for (member, folder) in &built {
        let template = crate::root().join("plugins").join(member.name).join("plugin.toml");
        let laid_out = pack(&template, folder, &out, &secret)
            .with_context(|| format!("laying out {}", member.name))?;
        if let Some(program) = member.program {
            let (from, to) = (folder.join(program), laid_out.join(program));
            // Not over a program that runs.
            let new = to.with_extension("new");
            std::fs::copy(&from, &new)
                .and_then(|_| std::fs::rename(&new, &to))
                .with_context(|| format!("laying out {}", to.display()))?;
        }
        eprintln!("{}", laid_out.display());
    }
    // The platform trusts who signed what lies beside this file.
    let trusted = out.join("signer.pub");
    std::fs::write(&trusted, hex::encode(public_key(&secret)) + "\n")
        .with_context(|| format!("writing {}", trusted.display()))
}

fn chosen(only: &[String]) -> Result<Vec<&'static Member>> {
    if only.is_empty() {
        return Ok(MEMBERS.iter().filter(|member| member.shipped).collect());
    }
    only.iter()
        .map(|name| match MEMBERS.iter().find(|member| member.name == name) {
            Some(member) => Ok(member),
            None => bail!("there is no plugins/{name}"),
        })
        .collect()
}

/// Builds in two strokes, since the processor's features are a setting of a whole build.
fn build<'a>(members: &[&'a Member], args: &Args) -> Result<Vec<(&'a Member, PathBuf)>> {
    let target = crate::root().join("target");
    let mut built = Vec::new();
    for native in [false, true] {
        let part: Vec<&Member> =
            members.iter().copied().filter(|member| member.native == native).collect();
        if part.is_empty() {
            continue;
        }
        let folder = if native { target.join("native") } else { target.clone() };
        let release = native || !args.dev;
        let libraries = folder.join(if release { "release" } else { "debug" });
        built.extend(part.iter().map(|member| (*member, libraries.clone())));
        if args.built && !release {
            continue;
        }
        let mut cargo = crate::cargo();
        cargo.arg("build").arg("--target-dir").arg(&folder);
        // Those that are optimised always together: of a part of them cargo would compile candle anew,
        // with other features.
        for member in
            if native { MEMBERS.iter().filter(|member| member.native).collect() } else { part }
        {
            cargo.arg("--package").arg(format!("qudao-plugin-{}", member.name));
            if let Some(program) = member.program {
                cargo.arg("--package").arg(program);
            }
        }
        if release {
            cargo.arg("--release");
        }
        if native {
            let processor = if args.portable { "x86-64-v3" } else { "native" };
            cargo
                .env("RUSTFLAGS", format!("-C target-cpu={processor}"))
                .env_remove(crate::AS_ONE.0);
        } else if release {
            cargo.env(crate::AS_ONE.0, crate::AS_ONE.1);
        }
        crate::run(&mut cargo)?;
    }
    Ok(built)
}
