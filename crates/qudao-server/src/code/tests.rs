use std::collections::HashSet;

use super::*;

#[test]
fn no_two_codes_share_a_name() {
    let names: HashSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(names.len(), Code::ALL.len());
}

#[test]
fn an_empty_wallet_and_throttling_are_told_apart_by_status() {
    let (wallet, throttle) = (Code::InsufficientCredits.row(), Code::RateLimited.row());
    assert_eq!((wallet.status, wallet.openai.status), (402, 402));
    assert_eq!((throttle.status, throttle.openai.status), (429, 429));
    assert_eq!(wallet.openai.code, Some("insufficient_quota"));
}

#[test]
fn the_page_of_error_codes_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/errors.md");
    let page = std::fs::read_to_string(path).unwrap_or_default();
    assert!(page == reference_markdown(), "docs/errors.md is stale: run `cargo xtask generate`");
}
