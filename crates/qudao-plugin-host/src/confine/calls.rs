//! seccomp: system calls that no plugin needs are refused, sockets to those without the network.
//!
//! A plugin starts threads and no processes. Everything else is allowed: a list of what is
//! allowed would differ from one C library and driver to the next.

use std::{collections::BTreeMap, io};

use libc::{
    SYS_acct, SYS_add_key, SYS_adjtimex, SYS_bpf, SYS_chroot, SYS_clock_adjtime, SYS_clock_settime,
    SYS_clone, SYS_clone3, SYS_delete_module, SYS_execve, SYS_execveat, SYS_fanotify_init,
    SYS_fchmod, SYS_fchmodat, SYS_fchmodat2, SYS_fchown, SYS_fchownat, SYS_finit_module,
    SYS_fremovexattr, SYS_fsconfig, SYS_fsetxattr, SYS_fsmount, SYS_fsopen, SYS_fspick,
    SYS_init_module, SYS_inotify_init1, SYS_io_uring_enter, SYS_io_uring_register,
    SYS_io_uring_setup, SYS_ioprio_set, SYS_kcmp, SYS_kexec_load, SYS_keyctl, SYS_kill,
    SYS_lremovexattr, SYS_lsetxattr, SYS_mount, SYS_mount_setattr, SYS_move_mount, SYS_mq_open,
    SYS_mq_unlink, SYS_msgctl, SYS_msgget, SYS_msgrcv, SYS_msgsnd, SYS_name_to_handle_at,
    SYS_open_by_handle_at, SYS_open_tree, SYS_perf_event_open, SYS_personality, SYS_pidfd_getfd,
    SYS_pidfd_send_signal, SYS_pivot_root, SYS_prlimit64, SYS_process_vm_readv,
    SYS_process_vm_writev, SYS_ptrace, SYS_quotactl, SYS_reboot, SYS_removexattr, SYS_request_key,
    SYS_rt_sigqueueinfo, SYS_rt_tgsigqueueinfo, SYS_semctl, SYS_semget, SYS_semop, SYS_semtimedop,
    SYS_setdomainname, SYS_sethostname, SYS_setns, SYS_setpriority, SYS_settimeofday, SYS_setxattr,
    SYS_shmat, SYS_shmctl, SYS_shmget, SYS_socket, SYS_swapoff, SYS_swapon, SYS_syslog, SYS_tgkill,
    SYS_tkill, SYS_umount2, SYS_unshare, SYS_userfaultfd, SYS_utimensat, SYS_vhangup,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, sock_filter,
};

/// Refused whatever their arguments are.
const NEVER: &[i64] = &[
    SYS_acct,
    SYS_add_key,
    SYS_adjtimex,
    SYS_bpf,
    SYS_chroot,
    SYS_clock_adjtime,
    SYS_clock_settime,
    SYS_delete_module,
    SYS_execve,
    SYS_execveat,
    SYS_finit_module,
    SYS_fsconfig,
    SYS_fsmount,
    SYS_fsopen,
    SYS_fspick,
    SYS_init_module,
    // Opens sockets and files without the calls that are looked at here.
    SYS_io_uring_enter,
    SYS_io_uring_register,
    SYS_io_uring_setup,
    SYS_kcmp,
    SYS_kexec_load,
    SYS_keyctl,
    SYS_mount,
    SYS_mount_setattr,
    SYS_move_mount,
    SYS_name_to_handle_at,
    SYS_open_by_handle_at,
    SYS_open_tree,
    SYS_perf_event_open,
    SYS_personality,
    SYS_pidfd_getfd,
    SYS_pidfd_send_signal,
    SYS_pivot_root,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_ptrace,
    SYS_quotactl,
    SYS_reboot,
    SYS_request_key,
    SYS_setdomainname,
    SYS_sethostname,
    SYS_setns,
    SYS_settimeofday,
    SYS_swapoff,
    SYS_swapon,
    SYS_syslog,
    SYS_tkill,
    SYS_umount2,
    SYS_unshare,
    SYS_userfaultfd,
    SYS_vhangup,
];
/// Names, owners, modes and times of files are not what Landlock looks at, nor is what processes
/// of one user share without files.
const NEVER_BY_NAME: &[i64] = &[
    SYS_fanotify_init,
    SYS_fchmod,
    SYS_fchmodat,
    SYS_fchmodat2,
    SYS_fchown,
    SYS_fchownat,
    SYS_fremovexattr,
    SYS_fsetxattr,
    SYS_inotify_init1,
    SYS_ioprio_set,
    SYS_lremovexattr,
    SYS_lsetxattr,
    SYS_mq_open,
    SYS_mq_unlink,
    SYS_msgctl,
    SYS_msgget,
    SYS_msgrcv,
    SYS_msgsnd,
    SYS_removexattr,
    SYS_semctl,
    SYS_semget,
    SYS_semop,
    SYS_semtimedop,
    SYS_setpriority,
    SYS_setxattr,
    SYS_shmat,
    SYS_shmctl,
    SYS_shmget,
    SYS_utimensat,
];
#[cfg(target_arch = "x86_64")]
const NEVER_HERE: &[i64] = &[
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_fork,
    libc::SYS_futimesat,
    libc::SYS_inotify_init,
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_kexec_file_load,
    libc::SYS_lchown,
    libc::SYS_modify_ldt,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_vfork,
];
#[cfg(not(target_arch = "x86_64"))]
const NEVER_HERE: &[i64] = &[];

/// Calls of the x32 ABI have this bit; a filter by number would not know them.
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;

/// Whether the kernel takes filters.
pub(super) fn is_offered() -> bool {
    // A filter that is none is refused as a bad address; without the feature, as unknown.
    // SAFETY: the null pointer is not read from here, and nothing is installed.
    let code = unsafe {
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, std::ptr::null::<u8>(), 0, 0)
    };
    code < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}

/// Installs the filters on this process, which has one thread.
pub(super) fn restrict(network: bool) -> io::Result<()> {
    let program = refusals(network).map_err(io::Error::other)?;
    seccompiler::apply_filter(&program).map_err(io::Error::other)?;
    seccompiler::apply_filter(&unknown()).map_err(io::Error::other)
}

fn refusals(network: bool) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = NEVER
        .iter()
        .chain(NEVER_BY_NAME)
        .chain(NEVER_HERE)
        .map(|call| (*call, Vec::new()))
        .collect();
    // Threads are clones that share everything; processes are not.
    let shared = u64::from(libc::CLONE_THREAD.cast_unsigned());
    rules.insert(SYS_clone, vec![rule(&[(0, SeccompCmpOp::MaskedEq(shared), 0)])?]);
    // Signals and limits of itself only.
    let own = u64::from(std::process::id());
    for call in [SYS_kill, SYS_tgkill, SYS_rt_sigqueueinfo, SYS_rt_tgsigqueueinfo] {
        rules.insert(call, vec![rule(&[(0, SeccompCmpOp::Ne, own)])?]);
    }
    let limits = [(0, SeccompCmpOp::Ne, own), (0, SeccompCmpOp::Ne, 0)];
    rules.insert(SYS_prlimit64, vec![rule(&limits)?]);
    rules.insert(SYS_socket, if network { internet_only()? } else { Vec::new() });
    let refused = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    SeccompFilter::new(rules, SeccompAction::Allow, refused, architecture())?.try_into()
}

/// Refuses every socket but those of the internet, and of the kernel's list of addresses, which
/// the resolver reads.
fn internet_only() -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let number = |value: i32| u64::from(value.cast_unsigned());
    let (inet, inet6) = (number(libc::AF_INET), number(libc::AF_INET6));
    let netlink = number(libc::AF_NETLINK);
    let kind = SeccompCmpOp::MaskedEq(0xf);
    Ok(vec![
        rule(&[
            (0, SeccompCmpOp::Ne, inet),
            (0, SeccompCmpOp::Ne, inet6),
            (0, SeccompCmpOp::Ne, netlink),
        ])?,
        rule(&[(0, SeccompCmpOp::Ne, netlink), (1, kind, number(libc::SOCK_RAW))])?,
        rule(&[
            (0, SeccompCmpOp::Eq, netlink),
            (2, SeccompCmpOp::Ne, number(libc::NETLINK_ROUTE)),
        ])?,
    ])
}

fn rule(conditions: &[(u8, SeccompCmpOp, u64)]) -> Result<SeccompRule, seccompiler::BackendError> {
    let conditions = conditions
        .iter()
        .map(|(argument, operator, value)| {
            SeccompCondition::new(*argument, Dword, operator.clone(), *value)
        })
        .collect::<Result<_, _>>()?;
    SeccompRule::new(conditions)
}

const fn architecture() -> TargetArch {
    if cfg!(target_arch = "aarch64") { TargetArch::aarch64 } else { TargetArch::x86_64 }
}

/// Calls that the kernel seems not to know: `clone3`, whose flags no filter can read (the C
/// library then takes `clone`), and those of another ABI.
fn unknown() -> BpfProgram {
    let code = |bits: u32| u16::try_from(bits).unwrap_or(u16::MAX);
    let jump = |bits: u32, k: u32, jt: u8| sock_filter { code: code(bits), jt, jf: 0, k };
    let end = |k: u32| sock_filter { code: code(libc::BPF_RET | libc::BPF_K), jt: 0, jf: 0, k };
    let mut program = vec![
        // The first field of what a filter is given is the call's number.
        sock_filter { code: code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS), jt: 0, jf: 0, k: 0 },
    ];
    let clone3 = u32::try_from(SYS_clone3).unwrap_or(u32::MAX);
    #[cfg(target_arch = "x86_64")]
    program.push(jump(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, X32, 2));
    program.push(jump(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, clone3, 1));
    program.push(end(libc::SECCOMP_RET_ALLOW));
    program.push(end(libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned()));
    program
}
