//! The command line.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

mod model;

pub(crate) use model::{
    AddOptions, BenchOptions, ExportOptions, ImportOptions, ModelCommand, PullOptions,
    QuantizeOptions, RemoveOptions,
};

/// AI assistants for businesses: channels in front, models behind, every token accounted for.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 3 a program is not installed.
#[derive(Debug, Parser)]
#[command(name = "qudao", version, propagate_version = true)]
pub(crate) struct Cli {
    /// The settings' file; `config/qudao.toml` if it exists.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The directory of this instance.
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) home: Option<PathBuf>,
    /// Print for programs: JSON on standard output.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the platform.
    Serve(ServeOptions),
    /// Bring the database's schema up to date.
    Migrate,
    /// Find what would stop a start, and say how to mend it.
    Doctor {
        /// Ask the running instance for a sign of life only, as a container's health check does.
        #[arg(long)]
        quick: bool,
    },
    /// Check the invariants of the books and the pipeline on the live database.
    Check,
    /// Back the private database up into a folder.
    Backup(BackupOptions),
    /// Restore a private database from a folder of backups, into a home without data.
    Restore(RestoreOptions),
    /// Look at plugins and start new ones.
    #[command(subcommand)]
    Plugin(PluginCommand),
    /// Look at models, fetch, compress, measure and remove them. 模型：查看、下载、压缩、测速、删除。
    #[command(subcommand)]
    Model(ModelCommand),
    /// The key of the admin API.
    #[command(subcommand)]
    OperatorKey(OperatorKeyCommand),
    /// The keys that protect the secrets in the database.
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Who did what, and whether the record of it is what it was.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Print a completion script for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Print what is generated from the code.
    Print {
        /// What to print.
        what: Printable,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ServeOptions {
    /// Which part of the platform this process is.
    #[arg(long, value_enum, default_value_t = Role::All)]
    pub(crate) role: Role,
    /// Make a demo tenant with credits, print how to reach it, and show a first answer.
    #[arg(long)]
    pub(crate) demo: bool,
    /// Where to listen.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) bind: Option<SocketAddr>,
}

#[derive(Debug, Args)]
pub(crate) struct BackupOptions {
    /// The folder; `backup.dir` of the settings when absent.
    #[arg(long, value_name = "DIR")]
    pub(crate) to: Option<PathBuf>,
    /// Keep so many backups, this one included, and the log that they need. All when absent.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) keep: Option<u16>,
}

#[derive(Debug, Args)]
pub(crate) struct RestoreOptions {
    /// The folder; `backup.dir` of the settings when absent.
    #[arg(long, value_name = "DIR")]
    pub(crate) from: Option<PathBuf>,
    /// Which backup; the newest that serves when absent.
    #[arg(long, value_name = "NAME")]
    pub(crate) backup: Option<String>,
    /// The moment to go back to, such as 2026-11-25T08:30:00Z; all that was archived when absent.
    #[arg(long, value_name = "TIME")]
    pub(crate) to_time: Option<jiff::Timestamp>,
    /// Only to see whether it works: the restored home never archives into the folder.
    #[arg(long)]
    pub(crate) rehearse: bool,
}

/// Which part of the platform a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Serves HTTP to clients.
    Api,
    /// Runs turns and deliveries; serves `/livez`, `/readyz` and `/metrics` alone.
    Worker,
    /// Both.
    All,
}

impl Role {
    pub(crate) fn serves(self) -> bool {
        self != Self::Worker
    }

    pub(crate) fn works(self) -> bool {
        self != Self::Api
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum PluginCommand {
    /// List the plugins that are found, and whether they would run.
    List,
    /// Start a plugin in a process of its own and show what it says of itself.
    Probe {
        /// Its id, or its directory.
        plugin: String,
    },
    /// Start a new plugin in a directory.
    New {
        /// The directory; its last part becomes the plugin's id.
        dir: PathBuf,
    },
    /// Have the running instance take up a new version of a plugin without an interruption.
    Reload {
        /// Its id.
        plugin: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum OperatorKeyCommand {
    /// Print it, making one if there is none yet.
    Show,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Show which master keys are known, which one is in use, and how many keys each wraps.
    Status,
    /// Wrap every data key with the first of the master keys, while nodes serve. A new one is put
    /// into the keys' file first, if they come from a file.
    RotateMaster,
    /// Make a new data key for a tenant and seal its secrets anew.
    RotateTenant {
        /// Its id, `ten_…`; `platform` for the platform's own secrets.
        tenant: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Verify the audit log, and name the first bad row of each chain that has one.
    Verify(AuditVerifyOptions),
    /// List administrative acts, the newest first.
    List(AuditListOptions),
}

#[derive(Debug, Args)]
pub(crate) struct AuditVerifyOptions {
    /// The chain of this tenant, `ten_…`, or `platform`; all chains when absent.
    #[arg(long, value_name = "TENANT")]
    pub(crate) tenant: Option<String>,
    /// Another file of signed heads beside the one in the home, such as a copy from elsewhere.
    #[arg(long, value_name = "FILE")]
    pub(crate) heads: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct AuditListOptions {
    /// Whose acts: a tenant, `ten_…`, or `platform`.
    #[arg(long, value_name = "TENANT", default_value = "platform")]
    pub(crate) tenant: String,
    /// How many.
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    pub(crate) limit: usize,
}

/// What is generated from the code.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Printable {
    /// The description of the HTTP API.
    Openapi,
    /// The JSON schema of the settings.
    ConfigSchema,
    /// The table of error codes.
    Errors,
    /// The table of metrics.
    Metrics,
}
