//! An adapter in Rust: `cargo run -p qudao-conform --example echo_adapter`, with the variables that
//! `qudao-conform keys` prints. It echoes by the mirror; put your platform in the place of
//! `Reference::show`.

#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a program to look at")]

use qudao_conform::{client::Keys, reference::Reference};
use qudao_pcp::{PrivateKey, Secret};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let variable =
        |name: &str| std::env::var(name).map_err(|_| anyhow::anyhow!("{name} is not set"));
    let secrets = variable("PCP_SECRETS")?;
    let secrets: Result<_, _> = secrets.split(' ').map(Secret::parse).collect();
    let keys = Keys {
        channel: variable("PCP_CHANNEL")?,
        bearer: variable("PCP_BEARER")?,
        secrets: secrets?,
        private: PrivateKey::parse(&variable("PCP_PRIVATE_KEY")?)?,
    };
    let listen = variable("PCP_LISTEN").unwrap_or_else(|_| "127.0.0.1:8098".to_owned());
    let fault = variable("PCP_FAULT").unwrap_or_default();
    let url = Reference::start(&listen, &variable("PCP_BASE_URL")?, keys, &fault).await?;
    println!("listening at {url}");
    tokio::signal::ctrl_c().await?;
    Ok(())
}
