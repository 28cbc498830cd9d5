//! A child of root is no root.

use std::io;

/// Reads what its owner alone may read: which files those may be, Landlock says.
const CAP_DAC_READ_SEARCH: u32 = 1 << 2;
/// The version with 64 capabilities, `_LINUX_CAPABILITY_VERSION_3`.
const VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Gives up every capability but the one to read, if this process has it.
pub(super) fn drop_all() -> io::Result<()> {
    let mut header = Header { version: VERSION, pid: 0 };
    let mut held = [Data::default(); 2];
    // SAFETY: both are of the layout that the version asks for, and live through the calls.
    unsafe {
        if libc::syscall(libc::SYS_capget, &raw mut header, held.as_mut_ptr()) < 0 {
            return Err(io::Error::last_os_error());
        }
        let kept = held[0].permitted & CAP_DAC_READ_SEARCH;
        let wanted = [Data { effective: kept, permitted: kept, inheritable: 0 }, Data::default()];
        if libc::syscall(libc::SYS_capset, &raw mut header, wanted.as_ptr()) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
