//! What a child may not do, from before the plugin's first instruction until its end.
//!
//! The host says what the manifest declares and the operator grants; the child gives up the rest
//! by itself, before it loads the library, so that constructors are confined too. What the kernel
//! does not offer is left out or, where the operator insists, a reason not to start.

use std::{io, path::PathBuf};

use qudao_plugin_api::manifest::Permissions;
use serde::{Deserialize, Serialize};
use serde_json::Value;

mod calls;
mod capabilities;
mod files;

/// Variables that name the certificates which exchanges are checked against, in the system's place: a
/// file, and a list of folders. A child that may use the network is given them.
pub const TRUST: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// Whether plugins run confined.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sandbox {
    /// Not at all without Landlock and seccomp, and not in the platform's own process.
    Required,
    /// By whatever the kernel offers.
    #[default]
    BestEffort,
    /// By resource limits and `no_new_privs` alone.
    Off,
}

/// What one child is confined to; a part of CREATE.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Confinement {
    pub(crate) sandbox: Sandbox,
    /// May open sockets of the internet.
    pub(crate) network: bool,
    /// May use the devices of a GPU.
    pub(crate) gpu: bool,
    /// May read these, and what is below them.
    pub(crate) files: Vec<PathBuf>,
}

impl Confinement {
    /// What a manifest asks for, as far as the operator's `config` of the instance names it.
    pub(crate) fn new(sandbox: Sandbox, asked: &Permissions, config: &Value, gpu: bool) -> Self {
        let mut files = Vec::new();
        for key in &asked.files {
            let Some(path) = config.get(key).and_then(Value::as_str).map(PathBuf::from) else {
                continue;
            };
            files.extend(asked.beside.iter().map(|name| path.with_file_name(name)));
            files.push(path);
        }
        let gpu = gpu && asked.devices.iter().any(|device| device == "nvidia");
        Self { sandbox, network: !asked.network.is_empty(), gpu, files }
    }

    /// Confines this process, which has one thread, for the rest of its life. Returns what holds.
    ///
    /// # Errors
    /// What the operator requires and the kernel does not offer.
    pub(crate) fn apply(&self) -> Result<Vec<String>, String> {
        let mut held = Vec::new();
        if no_new_privs() {
            held.push("no_new_privs".to_owned());
        }
        if self.sandbox == Sandbox::Off {
            return Ok(held);
        }
        let required = self.sandbox == Sandbox::Required;
        let mut hold = |name: String, taken: io::Result<()>| match taken {
            Ok(()) => {
                held.push(name);
                Ok(())
            }
            Err(error) if required => {
                Err(format!("plugins.sandbox is `required`, and {name} cannot be had: {error}"))
            }
            Err(_) => Ok(()),
        };
        // The driver of a GPU writes compiled kernels into files of its own memory.
        let limited = if self.gpu { Ok(()) } else { no_writes() };
        hold("rlimits".to_owned(), limited)?;
        hold("no_capabilities".to_owned(), capabilities::drop_all())?;
        let (name, taken) = match files::restrict(self) {
            Ok(abi) => (format!("landlock:{abi}"), Ok(())),
            Err(error) => ("landlock".to_owned(), Err(error)),
        };
        hold(name, taken)?;
        hold("seccomp".to_owned(), calls::restrict(self.network))?;
        Ok(held)
    }
}

/// Which protections this kernel offers to a child, and those that it does not.
#[must_use]
pub fn protections() -> (Vec<String>, Vec<String>) {
    let landlock = files::abi();
    let offers = [
        ("no_new_privs".to_owned(), true),
        ("rlimits".to_owned(), true),
        ("no_capabilities".to_owned(), true),
        (
            landlock.map_or("landlock".to_owned(), |abi| format!("landlock:{abi}")),
            landlock.is_some(),
        ),
        ("seccomp".to_owned(), calls::is_offered()),
    ];
    let (held, missing): (Vec<_>, Vec<_>) = offers.into_iter().partition(|(_, offered)| *offered);
    let names = |list: Vec<(String, bool)>| list.into_iter().map(|(name, _)| name).collect();
    (names(held), names(missing))
}

fn no_new_privs() -> bool {
    // SAFETY: reads a flag of this process.
    unsafe { libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 }
}

/// No file grows by this process: writing one fails, and does not end it.
fn no_writes() -> io::Result<()> {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: plain calls on this process; the struct lives through the call.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        if libc::setrlimit(libc::RLIMIT_FSIZE, &raw const none) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
