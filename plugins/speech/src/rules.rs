//! Which token may come next. Whisper was taught that times come in pairs around what is said, and never go
//! back; the rules hold it to that, as OpenAI's own program does.

use crate::vocabulary::{TIMES, Vocabulary};

/// The first time is at most a second in, in steps.
const FIRST_TIME_MAX: u32 = 50;

/// Makes impossible what may not follow `said`.
pub(crate) fn forbid(logits: &mut [f32], said: &[u32], vocabulary: &Vocabulary) {
    let Vocabulary { end, times, never, never_first, .. } = vocabulary;
    let (end, times) = (*end, *times);
    for token in never.iter().chain(said.is_empty().then_some(never_first).into_iter().flatten()) {
        close(logits, *token, token + 1);
    }
    close(logits, times + TIMES, u32::MAX);
    let is_time = |token: &u32| times <= *token;
    let last_is_time = said.last().is_some_and(is_time);
    let before_is_time = said.len() < 2 || said.get(said.len() - 2).is_some_and(is_time);
    if last_is_time && before_is_time {
        // After a pair words are said.
        close(logits, times, u32::MAX);
    } else if last_is_time {
        // A time that ends something is followed by one, or by the end.
        close(logits, 0, end);
    }
    if let Some(latest) = said.iter().rfind(|token| is_time(token)) {
        let from = if last_is_time && !before_is_time { *latest } else { latest + 1 };
        close(logits, times, from);
    }
    if said.is_empty() {
        close(logits, 0, times);
        close(logits, times + FIRST_TIME_MAX + 1, u32::MAX);
    }
    // Where a time of any kind is likelier than each word, it is a time.
    let split = usize::try_from(times).unwrap_or(usize::MAX).min(logits.len());
    let (words, all_times) = logits.split_at(split);
    let likeliest = words.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if likeliest < log_sum_exp(all_times) {
        close(logits, 0, times);
    }
}

fn close(logits: &mut [f32], from: u32, to: u32) {
    let place = |token: u32| usize::try_from(token).unwrap_or(usize::MAX).min(logits.len());
    let (from, to) = (place(from), place(to));
    if from < to {
        logits[from..to].fill(f32::NEG_INFINITY);
    }
}

/// The logarithm of the sum of what numbers are logarithms of.
pub(crate) fn log_sum_exp(numbers: &[f32]) -> f32 {
    let most = numbers.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if most == f32::NEG_INFINITY {
        return most;
    }
    most + numbers.iter().map(|number| (number - most).exp()).sum::<f32>().ln()
}

#[cfg(test)]
mod tests;
