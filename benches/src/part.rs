//! The other processes of a run: the measuring program again, with words that say which part it is.

use std::{
    io::{BufRead as _, BufReader},
    net::TcpListener,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result};

/// Listens on a free port of this machine, says where, and serves until the process is ended.
///
/// # Errors
/// When the port or the runtime cannot be had.
pub fn serve<F: Future<Output = std::io::Result<()>>>(
    run: impl FnOnce(TcpListener) -> F,
) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    say(&format!("http://{}", listener.local_addr()?));
    Ok(actix_web::rt::System::new().block_on(run(listener))?)
}

#[expect(clippy::print_stdout, reason = "how a part tells the measuring program its address")]
fn say(line: &str) {
    println!("{line}");
}

/// A part in a process of its own, ended with this value.
pub struct Running {
    child: Child,
    /// `http://host:port`.
    pub base: String,
}

impl Running {
    /// Starts this program again with these words and waits until it has said where it listens.
    ///
    /// # Errors
    /// When it ends before.
    pub fn start(words: &[&str]) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().context("a piped stdout")?;
        let mut base = String::new();
        BufReader::new(out).read_line(&mut base)?;
        Ok(Self { child, base: base.trim().to_owned() })
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `host:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        self.base.trim_start_matches("http://")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
