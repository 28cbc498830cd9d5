//! The mock provider as a program: `upstream [127.0.0.1:0]`; prints the address it listens on.
#![expect(clippy::print_stdout, reason = "the address is what its caller reads")]

use std::net::TcpListener;

use clap::Parser;

/// A mock of an OpenAI-compatible provider.
#[derive(Parser)]
struct Args {
    /// Where to listen; port 0 takes a free one.
    #[arg(default_value = "127.0.0.1:0")]
    bind: String,
    /// Serving threads.
    #[arg(long, default_value_t = 1)]
    workers: usize,
}

#[actix_web::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let listener = TcpListener::bind(&args.bind)?;
    println!("http://{}", listener.local_addr()?);
    Ok(qudao_benches::upstream::serve(listener, args.workers)?.await?)
}
