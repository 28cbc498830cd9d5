use super::*;

const LAYOUT: Layout = Layout { layers: 2, kv_heads: 2, head: 16 };

fn tokens(count: u32, from: u32) -> Vec<u32> {
    (from..from + count).collect()
}

/// A conversation of these tokens, computed to its end.
fn converse(pages: &mut Pages, salt: &str, tokens: &[u32]) -> usize {
    let mut table = pages.begin(salt);
    let shared = pages.share(&mut table, 0, tokens);
    assert!(pages.reserve(&mut table, tokens.len()));
    pages.note(&mut table, tokens);
    pages.end(table, tokens, salt);
    shared
}

#[test]
fn what_is_written_is_read_where_it_was_written() {
    let mut page = Page::new(LAYOUT);
    let of = |layer: usize, head: usize, slot: usize, component: usize| {
        (((layer * 2 + head) * 32 + slot) * 16 + component) as f32
    };
    for (layer, head) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        for slot in 0..PAGE {
            let key: Vec<f32> = (0..16).map(|component| of(layer, head, slot, component)).collect();
            let value: Vec<f32> = key.iter().map(|key| -key).collect();
            page.write(LAYOUT, (layer, head), slot, &key, &value);
        }
    }
    for (layer, head) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        for (component, keys) in page.keys(LAYOUT, layer, head).iter().enumerate() {
            let expected: Vec<f32> =
                (0..PAGE).map(|slot| of(layer, head, slot, component)).collect();
            assert_eq!(keys.as_slice(), expected);
        }
        for (slot, values) in page.values(LAYOUT, layer, head).chunks(16).enumerate() {
            assert_eq!(values[3].to_bits(), (-of(layer, head, slot, 3)).to_bits());
        }
    }
    assert_eq!(LAYOUT.bytes(), 2 * 2 * 2 * 16 * PAGE * 4);
}

#[test]
fn a_beginning_is_shared_by_whole_pages_and_one_token_is_left() {
    let mut pages = Pages::new(LAYOUT, 1024);
    assert_eq!(converse(&mut pages, "a", &tokens(100, 0)), 0);
    assert_eq!(converse(&mut pages, "a", &tokens(100, 0)), 96);
    assert_eq!(converse(&mut pages, "a", &tokens(96, 0)), 64, "the last token is computed");
    let mut other = tokens(100, 0);
    other[40] = 9999;
    assert_eq!(converse(&mut pages, "a", &other), 32);
    // The same piece elsewhere is another piece.
    assert_eq!(converse(&mut pages, "a", &tokens(60, 32)), 0);
}

#[test]
fn another_tenant_shares_nothing() {
    let mut pages = Pages::new(LAYOUT, 1024);
    converse(&mut pages, "a", &tokens(100, 0));
    assert_eq!(converse(&mut pages, "b", &tokens(100, 0)), 0);
    assert_eq!(converse(&mut pages, "b", &tokens(100, 0)), 96);
}

#[test]
fn two_who_compute_the_same_at_once_keep_one_page() {
    let mut pages = Pages::new(LAYOUT, 256);
    let all = tokens(64, 0);
    let (mut a, mut b) = (pages.begin("x"), pages.begin("x"));
    assert!(pages.reserve(&mut a, 64) && pages.reserve(&mut b, 64));
    pages.note(&mut a, &all);
    pages.note(&mut b, &all);
    assert!(Arc::ptr_eq(&a.pages[1], &b.pages[1]));
    assert_eq!(pages.free.len(), 2);
    pages.end(a, &all, "x");
    pages.end(b, &all, "x");
    assert_eq!(pages.available(), 8);
}

#[test]
fn the_bound_holds_and_the_oldest_end_makes_room() {
    let mut pages = Pages::new(LAYOUT, 4 * PAGE);
    converse(&mut pages, "a", &tokens(64, 0));
    converse(&mut pages, "a", &tokens(64, 1000));
    assert_eq!(pages.available(), 4);
    // One page more: the end of the first conversation goes, its beginning stays.
    converse(&mut pages, "a", &tokens(32, 2000));
    let mut table = pages.begin("a");
    assert_eq!(pages.share(&mut table, 0, &tokens(64, 0)), 32);
    assert_eq!(pages.share(&mut table, 32, &tokens(64, 0)[32..]), 0);
    // What is being read is never taken.
    assert!(pages.reserve(&mut table, 4 * PAGE));
    assert!(!pages.reserve(&mut table, 5 * PAGE));
    pages.end(table, &[], "a");
    assert_eq!(pages.available(), 4);
}
