use super::*;

fn environment(temp_dir: &Path) -> Environment {
    Environment {
        postgres_bin: None,
        path: std::ffi::OsString::new(),
        runtime_dir: None,
        temp_dir: temp_dir.to_owned(),
    }
}

fn stranger() -> Identity {
    Identity { name: "stranger".to_owned(), uid: 54_321, gid: 54_321 }
}

#[test]
fn a_directory_below_a_closed_one_is_not_reachable() {
    let dir = tempfile::tempdir().unwrap();
    let inside = dir.path().join("inside");
    fs::create_dir(&inside).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    assert!(!reachable(&inside, &stranger()));
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
    assert!(reachable(&inside, &stranger()));
}

#[test]
fn sockets_stay_within_107_bytes_under_a_long_temporary_directory() {
    let dir = tempfile::tempdir().unwrap();
    let long = dir.path().join("x".repeat(100));
    fs::create_dir(&long).unwrap();
    let run = socket_dir(&long.join("data"), None, &environment(&long)).unwrap();
    assert!(run.join(LONGEST_SOCKET).as_os_str().len() <= SOCKET_PATH_MAX, "{}", run.display());
    fs::remove_dir(run).unwrap();
}

#[test]
fn a_socket_directory_that_others_can_enter_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    private_dir(&path, None).unwrap();
    private_dir(&path, None).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let refused = private_dir(&path, None);
    assert!(matches!(refused, Err(ServicesError::UnsafeSocketDir { .. })), "{refused:?}");
}

#[test]
fn a_symbolic_link_in_the_place_of_the_socket_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (target, link) = (dir.path().join("target"), dir.path().join("run"));
    private_dir(&target, None).unwrap();
    symlink(&target, &link).unwrap();
    let refused = private_dir(&link, None);
    assert!(matches!(refused, Err(ServicesError::UnsafeSocketDir { .. })), "{refused:?}");
}
