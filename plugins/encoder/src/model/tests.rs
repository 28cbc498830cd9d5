use super::*;

#[test]
fn texts_of_one_length_are_one_group() {
    let texts: [&[u32]; 4] = [&[1], &[2, 3], &[4, 5], &[6, 7, 8]];
    let groups = groups(&texts);
    let shapes: Vec<_> = groups.iter().map(|g| (g.start, g.texts, g.length)).collect();
    assert_eq!(shapes, [(0, 1, 1), (1, 2, 2), (5, 1, 3)]);
}
