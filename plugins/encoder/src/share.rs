//! Which texts of a batch are computed together.

use std::ops::Range;

/// Tokens of a share, about: enough to use what is read of the weights well, and few enough for their rows
/// to stay near the processor.
const SHARE_TOKENS: usize = 128;

/// Texts of one share each, in order: each thread brings one share after the other through all layers, and
/// never waits for the others. If that cannot be fair, all texts are one share, of whose steps each
/// thread does a part.
pub(crate) fn shares(lengths: &[usize], threads: usize) -> Vec<Range<usize>> {
    let tokens = lengths.iter().sum::<usize>();
    let rounds = tokens.div_ceil(threads * SHARE_TOKENS).max(1);
    let share = tokens.div_ceil(threads * rounds).max(1);
    let (mut shares, mut sizes) = (Vec::new(), Vec::new());
    let (mut first, mut size, mut before) = (0, 0, 0);
    for (at, length) in lengths.iter().enumerate() {
        // A text belongs where its middle is.
        if (shares.len() + 1) * share <= before + length / 2 && first < at {
            shares.push(first..at);
            sizes.push(size);
            (first, size) = (at, 0);
        }
        size += length;
        before += length;
    }
    shares.push(first..lengths.len());
    sizes.push(size);
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    let mut loads = vec![0; threads];
    for size in sizes {
        if let Some(least) = loads.iter_mut().min() {
            *least += size;
        }
    }
    let longest = loads.into_iter().max().unwrap_or(0);
    // An eighth of waiting is what steps in parts would cost, too.
    if longest * threads <= tokens + tokens / 8 { shares } else { whole(lengths.len()) }
}

fn whole(texts: usize) -> Vec<Range<usize>> {
    std::iter::once(0..texts).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_shared_out_and_one_is_not() {
        assert_eq!(shares(&[32; 32], 2).len(), 8);
        assert_eq!(shares(&[128; 16], 2), (0..16).map(|at| at..at + 1).collect::<Vec<_>>());
        assert_eq!(shares(&[512], 2), whole(1));
        assert_eq!(shares(&[], 2), whole(0));
    }

    #[test]
    fn a_thread_that_would_wait_long_takes_part_in_the_steps() {
        assert_eq!(shares(&[3, 512], 2), whole(2));
        assert_eq!(shares(&[3, 512], 1).len(), 2);
        assert_eq!(shares(&[60, 64], 2), [0..1, 1..2]);
    }

    #[test]
    fn every_text_is_in_one_share() {
        for threads in 1..5 {
            for count in 1..40 {
                let lengths: Vec<_> = (0..count).map(|at| 1 + at * at % 97).collect();
                let texts: Vec<_> = shares(&lengths, threads).into_iter().flatten().collect();
                assert_eq!(texts, (0..count).collect::<Vec<_>>());
            }
        }
    }
}
