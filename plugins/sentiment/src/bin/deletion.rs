//! `deletion MODEL < texts`: which way of weighing words is worth more. Of each text the fifth of the words with the
//! largest weights is deleted; the better the weights, the less likely the class becomes.

use std::{
    io::{self, BufRead as _, Write as _},
    path::Path,
};

use qudao_plugin_sentiment::{Method, Model};

/// The part of the words that is deleted: one of so many, and at least one.
const DELETED: usize = 5;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Some(path) = std::env::args().nth(1) else { return Err("usage: deletion MODEL".into()) };
    let model = Model::load(Path::new(&path))?;
    let mut out = io::stdout().lock();
    let mut sums = [0.0_f64; 3];
    let mut count = 0.0;
    for line in io::stdin().lock().lines() {
        let text = model.read(&line?)?;
        if text.words.len() < 3 {
            continue;
        }
        let Some(judged) = model.judge(&[&text.ids])?.pop() else { continue };
        let before = judged.probabilities[judged.class];
        let deleted = text.words.len().div_ceil(DELETED);
        for (at, sum) in sums.iter_mut().enumerate() {
            let weights = match at {
                0 => model.explain(&text, &judged, Method::Occlusion)?,
                1 => model.explain(&text, &judged, Method::GradientInput)?,
                // What deleting any words does: the first ones.
                _ => vec![0.0; text.words.len()],
            };
            let mut order: Vec<usize> = (0..weights.len()).collect();
            order.sort_by(|a, b| weights[*b].total_cmp(&weights[*a]));
            let gone: Vec<_> =
                order.iter().take(deleted).map(|at| &text.words[*at].tokens).collect();
            let ids: Vec<u32> = text
                .ids
                .iter()
                .enumerate()
                .filter(|(token, _)| !gone.iter().any(|tokens| tokens.contains(token)))
                .map(|(_, id)| *id)
                .collect();
            let after =
                model.judge(&[&ids])?.pop().map_or(0.0, |after| after.probabilities[judged.class]);
            *sum += f64::from(before - after);
        }
        count += 1.0;
    }
    for (name, sum) in ["occlusion", "gradient x input", "the first words"].iter().zip(sums) {
        writeln!(out, "{name}: the class's probability falls by {:.3} in the mean", sum / count)?;
    }
    Ok(())
}
