//! From verified bytes to a table of functions. Nothing is ever unloaded: a plugin's threads
//! and thread-local destructors would run into unmapped memory.

use std::{
    ffi::c_void,
    mem,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr,
};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use qudao_plugin_api::abi::{
    QD_ABI_MAJOR, QD_ABI_MINOR, QdPluginApi, QdPluginEntry, SIZE_OF_PLUGIN_API_MIN,
};

/// Why a library that looked right from outside does not serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("dlopen: {0}")]
    Open(String),
    #[error("the symbol qudao_plugin_entry is missing")]
    NoEntry,
    #[error("the plugin does not serve ABI {QD_ABI_MAJOR}.{QD_ABI_MINOR}")]
    Declined,
    #[error("the plugin's table is wrong: {0}")]
    Table(&'static str),
}

/// Loads the library behind `memfd` for the rest of the process's life.
pub(crate) fn load(memfd: BorrowedFd<'_>) -> Result<QdPluginApi, LoadError> {
    // The loader takes a library of the same name for the same library. The descriptor is kept
    // open as long as the library, so that its number never names another one.
    let kept = memfd.try_clone_to_owned().map_err(|error| LoadError::Open(error.to_string()))?;
    let path = format!("/proc/self/fd/{}", kept.as_raw_fd());
    // SAFETY: constructors of the library run here. Its hash, signature and ABI were checked;
    // running its code is what the operator asked for.
    let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_LOCAL) };
    let library = library.map_err(|error| {
        let reason = std::error::Error::source(&error).map(ToString::to_string);
        LoadError::Open(reason.unwrap_or_else(|| error.to_string()))
    })?;
    mem::forget(kept);
    // SAFETY: the symbol's type is fixed by the ABI.
    let entry = unsafe { library.get::<QdPluginEntry>(b"qudao_plugin_entry\0") };
    let entry = *entry.map_err(|_| LoadError::NoEntry)?;
    // Leaked on purpose, see the module.
    mem::forget(library);
    // SAFETY: calling it with our version is the ABI's handshake.
    let table = unsafe { entry(u32::from(QD_ABI_MAJOR), u32::from(QD_ABI_MINOR)) };
    // SAFETY: the plugin's table is static and begins with its own size.
    unsafe { copy_table(table) }
}

/// Copies as much of the table as both sides know into a zeroed one of ours.
///
/// # Safety
/// `table` is null or points to a `u32` followed by as many bytes as it says in total.
pub(crate) unsafe fn copy_table(table: *const QdPluginApi) -> Result<QdPluginApi, LoadError> {
    if table.is_null() {
        return Err(LoadError::Declined);
    }
    // SAFETY: the first field is always there.
    let size = unsafe { ptr::read_unaligned(table.cast::<u32>()) };
    let size = usize::try_from(size).unwrap_or(0);
    if !(SIZE_OF_PLUGIN_API_MIN..=4096).contains(&size) {
        return Err(LoadError::Table("its size"));
    }
    let mut ours = mem::MaybeUninit::<QdPluginApi>::zeroed();
    let known = size.min(mem::size_of::<QdPluginApi>());
    // SAFETY: `known` bytes are readable there and writable here; zeros are valid for every
    // field, as NULL is `None`.
    let mut ours = unsafe {
        ptr::copy_nonoverlapping(table.cast::<u8>(), ours.as_mut_ptr().cast::<u8>(), known);
        ours.assume_init()
    };
    // A function cut in half by an odd size is no function.
    let whole = known / mem::size_of::<*const c_void>() * mem::size_of::<*const c_void>();
    if whole != known {
        return Err(LoadError::Table("its size"));
    }
    ours.struct_size = u32::try_from(known).unwrap_or(0);
    check_table(&ours)?;
    Ok(ours)
}

/// Whether a table has the functions a host needs.
pub(crate) fn check_table(api: &QdPluginApi) -> Result<(), LoadError> {
    if api.create.is_none() || api.destroy.is_none() {
        return Err(LoadError::Table("create and destroy are required"));
    }
    match (api.run, api.submit, api.cancel, api.resume) {
        (Some(_), None, _, _) | (None, Some(_), Some(_), Some(_)) => Ok(()),
        (None, Some(_), _, _) => Err(LoadError::Table("submit needs cancel and resume")),
        _ => Err(LoadError::Table("exactly one of run and submit is required")),
    }
}

#[cfg(test)]
mod tests;
