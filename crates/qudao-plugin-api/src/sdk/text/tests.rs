use super::TokenText;

#[test]
fn a_code_point_cut_at_every_byte_comes_out_whole() {
    let whole = "héllo, 世界 👩🏽‍🚀!";
    for size in 1..=5 {
        let mut text = TokenText::default();
        let mut seen = String::new();
        for part in whole.as_bytes().chunks(size) {
            seen.push_str(&text.push(part));
        }
        seen.push_str(&text.finish());
        assert_eq!(seen, whole, "chunks of {size}");
    }
}

#[test]
fn bytes_that_are_never_utf8_are_replaced_and_the_rest_survives() {
    let mut text = TokenText::default();
    assert_eq!(text.push(b"a\xffb"), "a\u{fffd}b");
    assert_eq!(text.push(b"\xe4\xb8"), "");
    assert_eq!(text.finish(), "\u{fffd}");
}
