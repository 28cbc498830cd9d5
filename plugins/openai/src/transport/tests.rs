use super::*;

#[test]
fn retry_after_is_read_in_its_three_forms() {
    let read = |when| wait(None, Some(when));
    assert_eq!(wait(Some("250"), Some("9")), Some(Duration::from_millis(250)));
    assert_eq!(wait(Some("soon"), None), None);
    assert_eq!(read("3"), Some(Duration::from_secs(3)));
    assert_eq!(read("Thu, 01 Jan 1970 00:00:00 GMT"), Some(Duration::ZERO));
    assert!(read("Tue, 31 Dec 2199 23:59:59 GMT") > Some(Duration::from_secs(1)));
    for nonsense in ["soon", "-1", "NaN", "1e99"] {
        assert_eq!(read(nonsense), None, "{nonsense}");
    }
}

#[test]
fn waits_grow_stay_under_the_cap_and_differ() {
    let waits: Vec<Duration> = (0..40).map(|_| backoff(2)).collect();
    assert!(waits.iter().all(|wait| *wait <= BACKOFF * 4 && *wait >= BACKOFF * 4 / 10));
    assert!(waits.iter().any(|wait| *wait != waits[0]));
    assert!(backoff(30) <= BACKOFF_CAP);
}
