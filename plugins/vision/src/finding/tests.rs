use super::*;

const CHOICE: Choice = Choice { score: 0.5, overlap: 0.45, most: 10 };

/// A place with a box, a certainty and scores of two classes.
fn place(centre: [f32; 4], sure: f32, scores: [f32; 2]) -> Vec<f32> {
    [&centre[..], &[sure], &scores].concat()
}

fn of(places: &[Vec<f32>], scale: f32) -> Vec<Finding> {
    let sight = Sight { classes: 2, values: places.concat() };
    findings(&sight, scale, (200.0, 100.0), CHOICE)
}

#[test]
fn of_boxes_that_overlap_the_surest_of_each_class_is_kept() {
    let near = [
        place([50.0, 50.0, 20.0, 20.0], 1.0, [0.8, 0.0]),
        place([51.0, 50.0, 20.0, 20.0], 1.0, [0.9, 0.0]),
        place([51.0, 51.0, 20.0, 20.0], 1.0, [0.0, 0.7]),
        place([80.0, 50.0, 20.0, 20.0], 1.0, [0.6, 0.0]),
    ];
    let found = of(&near, 1.0);
    let kept: Vec<_> = found.iter().map(|finding| (finding.class, finding.score)).collect();
    assert_eq!(kept, [(0, 0.9), (1, 0.7), (0, 0.6)]);
}

#[test]
fn boxes_are_in_pixels_of_the_original_and_within_it() {
    let found = of(&[place([40.0, 10.0, 200.0, 10.0], 1.0, [0.9, 0.0])], 0.5);
    assert_eq!(found[0].edges, [0.0, 10.0, 200.0, 30.0]);
    assert!(of(&[place([-90.0, 10.0, 20.0, 10.0], 1.0, [0.9, 0.0])], 0.5).is_empty());
}

#[test]
fn what_is_not_sure_enough_is_left_out() {
    let unsure = [
        place([50.0, 50.0, 20.0, 20.0], 0.6, [0.8, 0.0]),
        place([50.0, 50.0, 20.0, 20.0], f32::NAN, [0.8, 0.0]),
        place([50.0, 50.0, f32::NAN, 20.0], 1.0, [0.8, 0.0]),
    ];
    assert!(of(&unsure, 1.0).is_empty());
}

#[test]
fn no_more_are_kept_than_are_asked_for() {
    let many: Vec<_> =
        (0u8..30).map(|at| place([f32::from(at) * 6.0, 50.0, 5.0, 5.0], 1.0, [0.9, 0.0])).collect();
    assert_eq!(of(&many, 1.0).len(), CHOICE.most);
}
