//! Landlock: which files a child reads, that it writes none, and that it reaches no port, no
//! abstract socket and no process outside.

use std::{
    env,
    ffi::OsString,
    fs, io,
    path::{self, Path, PathBuf},
};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, LandlockStatus,
    Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
    path_beneath_rules,
};

use super::{Confinement, TRUST};

/// Newest version whose rights are taken away; older kernels take away what they know.
const NEWEST: ABI = ABI::V9;

/// Libraries, and what the C library, Rust's and allocators read by themselves.
const SYSTEM: &[&str] = &[
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/nix/store",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/usr/share/zoneinfo",
    "/proc/self",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/sys/devices/system/cpu",
    "/sys/devices/system/node",
    "/sys/fs/cgroup",
    "/dev/null",
    "/dev/zero",
    "/dev/random",
    "/dev/urandom",
];
/// Names, addresses and certificates.
const NETWORK: &[&str] = &[
    "/etc/resolv.conf",
    "/etc/nsswitch.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/protocols",
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
];
/// What the driver of a GPU reads.
const GPU: &[&str] = &[
    "/proc/driver",
    "/proc/devices",
    "/proc/modules",
    "/sys/bus/pci",
    "/sys/devices",
    "/sys/module",
    "/etc/nvidia",
];

/// The version of the kernel's Landlock; `None` without it.
pub(super) fn abi() -> Option<i32> {
    const VERSION: libc::c_uint = 1;
    let none = std::ptr::null::<libc::c_void>();
    // SAFETY: asks for a number; makes nothing.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0usize, VERSION) };
    i32::try_from(abi).ok().filter(|abi| 0 < *abi)
}

/// Takes away what `to` does not grant. Returns the kernel's version.
pub(super) fn restrict(to: &Confinement) -> io::Result<i32> {
    let abi = abi().ok_or(io::ErrorKind::Unsupported)?;
    let status = enforce(to).map_err(io::Error::other)?;
    let held = status.ruleset != RulesetStatus::NotEnforced
        && matches!(status.landlock, LandlockStatus::Available { .. });
    if held { Ok(abi) } else { Err(io::ErrorKind::Unsupported.into()) }
}

fn enforce(to: &Confinement) -> Result<landlock::RestrictionStatus, RulesetError> {
    // Who may talk to others may not be talked to.
    let ports: BitFlags<AccessNet> = if to.network {
        AccessNet::BindTcp.into()
    } else {
        AccessNet::BindTcp | AccessNet::ConnectTcp
    };
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(ports)?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .add_rules(path_beneath_rules(readable(to), read))?
        .add_rules(path_beneath_rules(["/dev/null"], read | AccessFs::WriteFile))?
        .add_rules(path_beneath_rules(
            devices(to),
            read | AccessFs::WriteFile | AccessFs::IoctlDev,
        ))?
        .restrict_self()
}

fn readable(to: &Confinement) -> Vec<PathBuf> {
    let list = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<Vec<_>>();
    let mut all = list(SYSTEM);
    all.extend(library_folders());
    if to.network {
        all.extend(list(NETWORK));
        // Often a link into a folder in which the file is replaced, not rewritten.
        all.extend(fs::canonicalize("/etc/resolv.conf").ok().and_then(run_folder));
        all.extend(trusted());
    }
    if to.gpu {
        all.extend(list(GPU));
    }
    // The operator hands it on by name, so this is the operator's word.
    all.extend(listed(env::var_os("LD_LIBRARY_PATH")));
    all.retain(|path| path.is_absolute());
    all.extend(to.files.iter().cloned());
    all
}

/// Where certificates are, if the platform was told so.
fn trusted() -> impl Iterator<Item = PathBuf> {
    let [file, folders] = TRUST.map(env::var_os);
    let named = file.map(PathBuf::from).into_iter().chain(listed(folders));
    named.filter_map(|path| path::absolute(path).ok())
}

fn listed(paths: Option<OsString>) -> Vec<PathBuf> {
    paths.iter().flat_map(env::split_paths).collect()
}

/// The folder of a `resolv.conf` that a service keeps below `/run`.
fn run_folder(path: PathBuf) -> Option<PathBuf> {
    let folder = path.parent()?;
    (folder.starts_with("/run") && folder != Path::new("/run")).then(|| folder.to_owned())
}

/// The folders that the loader's cache was made from.
fn library_folders() -> Vec<PathBuf> {
    let parts = fs::read_dir("/etc/ld.so.conf.d").into_iter().flatten().flatten();
    let files = parts.map(|entry| entry.path()).chain([PathBuf::from("/etc/ld.so.conf")]);
    let lines = files.filter_map(|file| fs::read_to_string(file).ok());
    lines
        .flat_map(|text| {
            text.lines()
                .map(str::trim)
                .filter(|line| line.starts_with('/') && 1 < line.len())
                .map(PathBuf::from)
                .collect::<Vec<_>>()
        })
        .collect()
}

fn devices(to: &Confinement) -> Vec<PathBuf> {
    if !to.gpu {
        return Vec::new();
    }
    let entries = fs::read_dir("/dev").into_iter().flatten().flatten();
    let of_gpu = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("nvidia"))
    };
    entries.map(|entry| entry.path()).filter(of_gpu).collect()
}
