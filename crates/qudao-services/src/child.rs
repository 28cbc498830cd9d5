//! One way to start a child: as an unprivileged user, in a clean environment, and so that it gets
//! its shutdown signal when this process ends in whatever way.

use std::{
    ffi::OsStr,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Stdio},
};

use nix::{
    sys::signal::Signal,
    unistd::{User, geteuid},
};

use crate::{error::ServicesError, place};

/// The user that the children run as when this process is root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Whom to become: nobody else for an ordinary user; for root, whom Postgres refuses, the user
/// `postgres`, else `nobody`.
pub(crate) fn identity() -> Result<Option<Identity>, ServicesError> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        if let Ok(Some(user)) = User::from_name(name) {
            let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
            return Ok(Some(Identity { name: name.to_owned(), uid, gid }));
        }
    }
    Err(ServicesError::NoUnprivilegedUser)
}

/// Whom services run as, for programs that start servers of their own.
#[derive(Debug, Clone)]
pub struct ServiceUser(Option<Identity>);

impl ServiceUser {
    /// This user, or an unprivileged one if this is root.
    ///
    /// # Errors
    /// [`ServicesError::NoUnprivilegedUser`].
    pub fn find() -> Result<Self, ServicesError> {
        identity().map(Self)
    }

    /// A command that runs `program` as that user in a clean environment. The child is sent
    /// `on_parent_death` when the thread that spawns it ends.
    pub fn command(&self, program: &Path, on_parent_death: Signal) -> Command {
        command(program, self.0.as_ref(), on_parent_death)
    }

    /// Creates a directory that only that user can enter.
    ///
    /// # Errors
    /// [`ServicesError::Io`], or [`ServicesError::UnsafeSocketDir`] if somebody else made it.
    pub fn private_dir(&self, path: &Path) -> Result<(), ServicesError> {
        place::private_dir(path, self.0.as_ref())
    }
}

/// The user id that owns the children's files.
pub(crate) fn owner(identity: Option<&Identity>) -> u32 {
    identity.map_or_else(|| geteuid().as_raw(), |identity| identity.uid)
}

/// A command that runs `program` as `identity` and sends it `on_parent_death` when the thread that
/// spawns it ends. It must therefore be spawned from a thread that lives as long as it should.
///
/// On Linux the way is `setpriv`, which sets the death signal after the change of user (a change
/// of credentials clears it), then a shell that gives up if this process was already gone by then.
/// Both replace themselves, so the child's process id is the service's.
pub(crate) fn command(
    program: &Path,
    identity: Option<&Identity>,
    on_parent_death: Signal,
) -> Command {
    let mut command = if cfg!(target_os = "linux") {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", on_parent_death.as_str().trim_start_matches("SIG")]);
        command.args(["--", "/bin/sh", "-c"]);
        command.arg(r#"[ "$PPID" = "$0" ] || exit 1; exec "$@""#);
        command.arg(std::process::id().to_string()).arg(program);
        command
    } else {
        Command::new(program)
    };
    if let Some(identity) = identity {
        // Clears the supplementary groups as well.
        command.uid(identity.uid).gid(identity.gid);
    }
    // PG* variables would redirect Postgres, and it resolves its own path from the working
    // directory, which the unprivileged user may not be able to enter.
    command.env_clear();
    command.envs([("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")]);
    command.envs([("LC_ALL", OsStr::new("C")), ("TZ", OsStr::new("UTC"))]);
    command.current_dir("/").stdin(Stdio::null());
    // Ctrl-C in a terminal is for this process, which then stops the children in order.
    command.process_group(0);
    command
}
