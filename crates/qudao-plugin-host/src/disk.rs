//! Reading what others may have laid there: no more than expected, nothing that is no file, and
//! nothing from outside the folder.

use std::{
    ffi::CString,
    fs::{self, File},
    io::{self, Read as _},
    os::{
        fd::{AsRawFd as _, FromRawFd as _},
        unix::{
            ffi::OsStrExt as _,
            fs::{MetadataExt as _, OpenOptionsExt as _},
        },
    },
    path::{Path, PathBuf},
};

use crate::artifact::RefusalError;

/// The whole of a regular file of at most `max` bytes.
pub(crate) fn read(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    // Without blocking: a pipe would be waited for until somebody writes to it.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    read_open(file, max)
}

fn read_open(file: File, max: u64) -> io::Result<Vec<u8>> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut bytes = Vec::new();
    // It may grow while it is read.
    file.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    if max < bytes.len() as u64 {
        let reason = format!("it has more than {max} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
    }
    Ok(bytes)
}

/// As [`read`], of a file below `folder`; links may not lead out of it.
pub(crate) fn read_inside(folder: &Path, name: &str, max: u64) -> Result<Vec<u8>, RefusalError> {
    let path = folder.join(name);
    let failed = |source| RefusalError::Read { path: path.clone(), source };
    let outside = || RefusalError::Outside(name.to_owned());
    let file = match open_beneath(folder, name) {
        Ok(file) => file,
        Err(error) => match error.raw_os_error() {
            Some(libc::EXDEV) => return Err(outside()),
            // A kernel before 5.6, or a container that hides the call.
            Some(libc::ENOSYS | libc::EPERM) => {
                let real = path.canonicalize().map_err(failed)?;
                let inside = real.starts_with(folder.canonicalize().map_err(failed)?);
                let mut options = File::options();
                let options = options.read(true).custom_flags(libc::O_NONBLOCK);
                if !inside {
                    return Err(outside());
                }
                options.open(&real).map_err(failed)?
            }
            _ => return Err(failed(error)),
        },
    };
    read_open(file, max).map_err(failed)
}

/// The kernel itself follows the path, so that nothing can be exchanged behind a check.
fn open_beneath(folder: &Path, name: &str) -> io::Result<File> {
    let root = File::open(folder)?;
    let path = CString::new(Path::new(name).as_os_str().as_bytes())?;
    // SAFETY: zeros are valid for a struct of numbers.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = u64::from((libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK).cast_unsigned());
    how.resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS;
    let (how, size) = (&raw const how, size_of::<libc::open_how>());
    // SAFETY: the path is NUL-terminated, and both live through the call.
    let fd =
        unsafe { libc::syscall(libc::SYS_openat2, root.as_raw_fd(), path.as_ptr(), how, size) };
    match i32::try_from(fd) {
        // SAFETY: a fresh descriptor that nobody else owns.
        Ok(fd) if 0 <= fd => Ok(unsafe { File::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether only the system, this user and whoever owns this program can change `path`.
///
/// # Errors
/// Who else can, or that it cannot be found out.
pub fn guarded(path: &Path) -> Result<(), String> {
    let path = path.canonicalize().map_err(|error| format!("{}: {error}", path.display()))?;
    let owners = owners();
    for (at, place) in path.ancestors().enumerate() {
        let found = fs::metadata(place).map_err(|error| format!("{}: {error}", place.display()))?;
        let sticky = found.is_dir() && found.mode() & libc::S_ISVTX != 0;
        if found.mode() & libc::S_IWOTH != 0 && !sticky {
            return Err(format!("{} can be written by everybody", place.display()));
        }
        // The place itself and its folder; those above belong to whoever gave it a home.
        if at < 2 && !owners.contains(&found.uid()) && !sticky {
            return Err(format!("{} belongs to user {}", place.display(), found.uid()));
        }
    }
    Ok(())
}

/// The system, this user, and the user who could replace this program as well.
fn owners() -> Vec<u32> {
    // SAFETY: always succeeds.
    let mut owners = vec![0, unsafe { libc::geteuid() }];
    let program = std::env::current_exe().ok().and_then(|program| fs::metadata(program).ok());
    owners.extend(program.map(|program| program.uid()));
    owners
}

/// Writes a file in one step, for its owner alone.
pub(crate) fn replace(path: &PathBuf, bytes: &[u8]) -> io::Result<()> {
    use io::Write as _;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let new = path.with_extension("new");
    let mut options = File::options();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_pipe_a_device_a_folder_and_a_file_that_is_too_large_are_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let name = CString::new(pipe.as_os_str().as_bytes()).unwrap();
        // SAFETY: the name is NUL-terminated.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        assert!(read(&pipe, 10).unwrap_err().to_string().contains("regular"));
        assert!(read(Path::new("/dev/zero"), 10).unwrap_err().to_string().contains("regular"));
        assert!(read(folder.path(), 10).unwrap_err().to_string().contains("regular"));
        let file = folder.path().join("file");
        fs::write(&file, "12345678901").unwrap();
        assert!(read(&file, 10).unwrap_err().to_string().contains("more than 10 bytes"));
        assert_eq!(read(&file, 11).unwrap().len(), 11);
    }

    #[test]
    fn links_stay_inside() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("inner");
        fs::create_dir(&inner).unwrap();
        fs::write(folder.path().join("secret"), "s").unwrap();
        fs::write(inner.join("file"), "f").unwrap();
        symlink("file", inner.join("good")).unwrap();
        symlink("../secret", inner.join("up")).unwrap();
        symlink("/etc/hostname", inner.join("absolute")).unwrap();
        symlink("..", inner.join("folder")).unwrap();
        assert_eq!(read_inside(&inner, "good", 9).unwrap(), b"f");
        for name in ["up", "absolute", "folder/secret", "../secret", "/etc/hostname"] {
            let refusal = read_inside(&inner, name, 9).unwrap_err();
            assert!(matches!(refusal, RefusalError::Outside(_)), "{name}: {refusal}");
        }
    }

    #[test]
    fn a_place_that_everybody_can_write_is_not_guarded() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("signer.pub");
        fs::write(&file, "k").unwrap();
        assert_eq!(guarded(&file), Ok(()));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(guarded(&file).unwrap_err().contains("everybody"));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(guarded(&file).unwrap_err().contains("everybody"));
    }
}
