use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn nowhere() -> Environment {
    Environment {
        postgres_bin: None,
        path: OsString::new(),
        runtime_dir: None,
        temp_dir: PathBuf::from("/tmp"),
    }
}

fn fake_postgres(dir: &Path, version: &str) {
    fs::create_dir_all(dir).unwrap();
    for name in ["postgres", "initdb"] {
        let path = dir.join(name);
        fs::write(&path, format!("#!/bin/sh\necho 'postgres (PostgreSQL) {version}'\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn the_major_version_is_read_from_the_banner() {
    assert_eq!(major_of("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n"), Some(15));
    assert_eq!(major_of("postgres (PostgreSQL) 18beta1\n"), Some(18));
    assert_eq!(major_of("something else"), None);
}

#[test]
fn the_configured_directory_wins() {
    let dir = tempfile::tempdir().unwrap();
    fake_postgres(dir.path(), "12.3");
    let environment = Environment { postgres_bin: Some(dir.path().to_owned()), ..nowhere() };
    let found = find_postgres(&environment, None).unwrap().unwrap();
    assert_eq!(found, PostgresBinaries { dir: dir.path().to_owned(), major: 12 });
}

#[test]
fn a_configured_directory_without_postgres_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let environment = Environment { postgres_bin: Some(dir.path().to_owned()), ..nowhere() };
    let error = find_postgres(&environment, None).unwrap_err().to_string();
    assert!(error.contains(dir.path().to_str().unwrap()), "{error}");
}

#[test]
fn the_newest_version_is_taken_and_an_older_one_on_request() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    fake_postgres(&old, "9.6");
    fake_postgres(&new, "99.1");
    let path = std::env::join_paths([&old, &new]).unwrap();
    let environment = Environment { path, ..nowhere() };
    assert_eq!(find_postgres(&environment, None).unwrap().unwrap().major, 99);
    assert_eq!(find_postgres(&environment, Some(9)).unwrap().unwrap().dir, old);
    assert_eq!(find_postgres(&environment, Some(8)).unwrap(), None);
}

#[test]
fn the_server_in_redis_tools_is_found_by_its_other_name() {
    let dir = tempfile::tempdir().unwrap();
    let environment = Environment { path: dir.path().into(), ..nowhere() };
    fs::write(dir.path().join("redis-check-rdb"), "").unwrap();
    let found = find_redis(&environment);
    // A machine with a server under its own name prefers that one.
    assert!(found.is_some_and(|found| found.needs_server_name == found.path.ends_with("redis-check-rdb")));
    fs::write(dir.path().join("redis-server"), "").unwrap();
    let expected = RedisBinary { path: dir.path().join("redis-server"), needs_server_name: false };
    assert_eq!(find_redis(&environment), Some(expected));
}
