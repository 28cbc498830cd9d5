//! Reaches for what a plugin has no business with, and says what it got.

use std::{
    fs, io,
    net::{TcpListener, TcpStream, UdpSocket},
    os::unix::net::{UnixDatagram, UnixStream},
    process::Command,
    sync::OnceLock,
};

/// What the constructor below got, before the host asked for anything.
static FIRST: OnceLock<String> = OnceLock::new();

/// Runs while the library is loaded.
#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = {
    extern "C" fn constructor() {
        let _ = FIRST.set(told(fs::read("/etc/passwd").map(drop)));
    }
    constructor
};

/// A name, and what is done.
type Attempt = (&'static str, fn() -> String);

/// Every attempt by its name.
const ATTEMPTS: &[Attempt] = &[
    ("read /etc/passwd while it is loaded", || FIRST.get().cloned().unwrap_or_default()),
    ("read /etc/passwd", || told(fs::read("/etc/passwd").map(drop))),
    ("read the environment of the platform", || told(fs::read(of_parent("environ")).map(drop))),
    ("read the memory of the platform", || told(fs::File::open(of_parent("mem")).map(drop))),
    ("list the root folder", || told(fs::read_dir("/").map(drop))),
    ("write to /tmp", || told(fs::write(scratch(), "gone out"))),
    ("make a folder", || told(fs::create_dir(scratch()))),
    ("change a file's mode", || {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        told(fs::set_permissions(scratch(), mode))
    }),
    ("watch a folder", || called(libc::SYS_inotify_init1, [0, 0])),
    ("share memory with others", || called(libc::SYS_shmget, [1, 0])),
    ("connect by TCP", || told(TcpStream::connect("127.0.0.1:9").map(drop))),
    ("listen by TCP", || told(TcpListener::bind("127.0.0.1:0").map(drop))),
    ("send by UDP", || told(UdpSocket::bind("127.0.0.1:0").map(drop))),
    ("connect to a Unix socket", || told(UnixStream::connect("/run/rogue.sock").map(drop))),
    ("open a Unix datagram socket", || told(UnixDatagram::unbound().map(drop))),
    ("open a raw packet socket", || called(libc::SYS_socket, [libc::AF_PACKET, libc::SOCK_RAW])),
    ("open a netlink socket", || called(libc::SYS_socket, [libc::AF_NETLINK, libc::SOCK_RAW])),
    ("run a program", || told(Command::new("/bin/true").status().map(drop))),
    ("become another program", || {
        told(Err(std::os::unix::process::CommandExt::exec(&mut Command::new("/dev/null/no"))))
    }),
    ("fork", fork),
    ("clone without sharing", || ended(called(libc::SYS_clone, [libc::SIGCHLD, 0]))),
    ("trace the platform", || called(libc::SYS_ptrace, [PTRACE_SEIZE, parent()])),
    ("signal the platform", || called(libc::SYS_kill, [parent(), 0])),
    ("take a descriptor of the platform", || called(libc::SYS_pidfd_getfd, [0, 0])),
    ("read the platform's memory by a call", || called(libc::SYS_process_vm_readv, [parent(), 0])),
    ("limit the platform", || called(libc::SYS_prlimit64, [parent(), 7])),
    ("set up io_uring", || called(libc::SYS_io_uring_setup, [1, 0])),
    ("load a BPF program", || called(libc::SYS_bpf, [0, 0])),
    ("mount", || called(libc::SYS_mount, [0, 0])),
    ("leave its namespaces", || called(libc::SYS_unshare, [libc::CLONE_NEWNS, 0])),
    ("watch page faults", || called(libc::SYS_userfaultfd, [0, 0])),
    ("read performance counters", || called(libc::SYS_perf_event_open, [0, 0])),
    ("use the kernel's keys", || called(libc::SYS_keyctl, [0, 0])),
    ("load another kernel", || called(libc::SYS_kexec_load, [0, 0])),
    ("load a kernel module", || called(libc::SYS_init_module, [0, 0])),
    ("call by the x32 ABI", || called(libc::SYS_socket | 0x4000_0000, [libc::AF_INET, 1])),
];

const PTRACE_SEIZE: i32 = 0x4206;

/// `denied` with the system's word for it, or `got it`.
fn told(result: io::Result<()>) -> String {
    match result {
        Ok(()) => "got it".to_owned(),
        Err(error) => match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => format!("denied: {error}"),
            _ => format!("reached it: {error}"),
        },
    }
}

fn called(call: i64, arguments: [i32; 2]) -> String {
    // SAFETY: none of these calls reads or writes memory with arguments like these.
    let code = unsafe {
        libc::syscall(call, i64::from(arguments[0]), i64::from(arguments[1]), 0i64, 0i64, 0i64)
    };
    if code == 0 && call == libc::SYS_clone {
        leave();
    }
    if code < 0 { told(Err(io::Error::last_os_error())) } else { told(Ok(())) }
}

fn fork() -> String {
    // SAFETY: the copy does nothing but end.
    let child = unsafe { libc::fork() };
    if child == 0 {
        leave();
    }
    if child < 0 { told(Err(io::Error::last_os_error())) } else { ended(told(Ok(()))) }
}

/// Ends the copy that a call made of this process.
fn leave() -> ! {
    // SAFETY: ends this process and nothing else.
    unsafe { libc::_exit(0) }
}

/// Waits for the copy, so that an attempt that succeeds leaves nothing behind.
fn ended(told: String) -> String {
    // SAFETY: a null pointer asks for no status.
    unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::__WALL) };
    told
}

fn parent() -> i32 {
    // SAFETY: always succeeds.
    unsafe { libc::getppid() }
}

fn of_parent(file: &str) -> String {
    format!("/proc/{}/{file}", parent())
}

fn scratch() -> String {
    format!("/tmp/qudao-rogue-{}", std::process::id())
}

/// A line for every attempt.
pub(crate) fn everything() -> String {
    ATTEMPTS.iter().map(|(name, attempt)| format!("{name}: {}\n", attempt())).collect()
}

/// Starts copies of itself that start copies, in vain or not; at most so many.
pub(crate) fn fork_bomb() -> String {
    let refused = (0..64).filter(|_| fork().starts_with("denied")).count();
    format!("{refused} of 64 refused")
}
