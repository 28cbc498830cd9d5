//! From what a network says of every place to the things in a picture.

use crate::network::Sight;

/// A thing in a picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Finding {
    /// Which class of the model.
    pub class: usize,
    /// How sure the model is, from 0 to 1.
    pub score: f32,
    /// Left, top, right and bottom in pixels of the original.
    pub edges: [f32; 4],
}

/// What counts as a finding.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    /// The lowest score.
    pub score: f32,
    /// Of two boxes of a class that overlap by more than this part of their union one is kept.
    pub overlap: f32,
    /// The most findings.
    pub most: usize,
}

/// Boxes that are compared with each other: the square of it is what a hostile picture costs.
const COMPARED: usize = 1000;

/// The things that a network saw, the surest first. `scale` is that of the square that it looked at;
/// `width` and `height` are the original's.
pub fn findings(
    sight: &Sight,
    scale: f32,
    (width, height): (f32, f32),
    choice: Choice,
) -> Vec<Finding> {
    let mut found: Vec<Finding> = sight
        .values
        .chunks_exact(5 + sight.classes)
        .filter(|place| place[4] >= choice.score)
        .filter_map(|place| {
            let (class, score) = best(&place[5..])?;
            let score = score * place[4];
            let [x, y, w, h] = [place[0], place[1], place[2], place[3]].map(|value| value / scale);
            let edges = [
                (x - w / 2.0).clamp(0.0, width),
                (y - h / 2.0).clamp(0.0, height),
                (x + w / 2.0).clamp(0.0, width),
                (y + h / 2.0).clamp(0.0, height),
            ];
            let whole = edges[2] > edges[0] && edges[3] > edges[1];
            (whole && score >= choice.score).then_some(Finding { class, score, edges })
        })
        .collect();
    found.sort_by(|a, b| b.score.total_cmp(&a.score));
    found.truncate(COMPARED);
    let mut kept: Vec<Finding> = Vec::new();
    for finding in found {
        if kept.len() == choice.most {
            break;
        }
        let rival = |other: &Finding| {
            other.class == finding.class && overlap(other, &finding) > choice.overlap
        };
        if !kept.iter().any(rival) {
            kept.push(finding);
        }
    }
    kept
}

fn best(scores: &[f32]) -> Option<(usize, f32)> {
    scores.iter().copied().enumerate().max_by(|a, b| a.1.total_cmp(&b.1))
}

/// The part of their union that two boxes share.
fn overlap(a: &Finding, b: &Finding) -> f32 {
    let area =
        |[left, top, right, bottom]: [f32; 4]| (right - left).max(0.0) * (bottom - top).max(0.0);
    let (p, q) = (a.edges, b.edges);
    let shared = area([p[0].max(q[0]), p[1].max(q[1]), p[2].min(q[2]), p[3].min(q[3])]);
    let union = area(p) + area(q) - shared;
    if union > 0.0 { shared / union } else { 0.0 }
}

#[cfg(test)]
mod tests;
