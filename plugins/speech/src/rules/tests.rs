use tokenizers::{AddedToken, Tokenizer, models::bpe::BPE};

use super::*;
use crate::file::Card;

/// Four words, an end, and what steers: as the multilingual vocabulary orders them, with two languages.
const STEERING: [&str; 9] = [
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|en|>",
    "<|zh|>",
    "<|translate|>",
    "<|transcribe|>",
    "<|startofprev|>",
    "<|nospeech|>",
    "<|notimestamps|>",
];
const END: u32 = 4;
const TIME: u32 = END + 9;

fn vocabulary() -> Vocabulary {
    let words = [("a", 0), ("b", 1), ("c", 2), ("d", 3)].map(|(word, id)| (word.to_owned(), id));
    let model = BPE::builder().vocab_and_merges(words, Vec::new()).build().unwrap();
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.add_special_tokens(STEERING.map(|name| AddedToken::from(name, true))).unwrap();
    let json = tokenizer.to_string(false).unwrap();
    let card = Card { suppress: vec![3], suppress_first: vec![0, END] };
    let known = usize::try_from(TIME + TIMES).unwrap();
    Vocabulary::read(&json, &card, known).unwrap()
}

/// What may be said after `said`, if everything is as likely.
fn open(said: &[u32], likely: Option<u32>) -> Vec<u32> {
    let vocabulary = vocabulary();
    assert_eq!((vocabulary.end, vocabulary.times), (END, TIME));
    let mut logits = vec![-10.0; usize::try_from(TIME + TIMES).unwrap()];
    if let Some(token) = likely {
        logits[usize::try_from(token).unwrap()] = 10.0;
    }
    forbid(&mut logits, said, &vocabulary);
    let open = (0_u32..).zip(&logits).filter(|(_, logit)| logit.is_finite());
    open.map(|(token, _)| token).collect()
}

#[test]
fn a_time_within_the_first_second_comes_first() {
    assert_eq!(open(&[], Some(1)), (TIME..=TIME + 50).collect::<Vec<_>>());
}

#[test]
fn words_follow_a_time_and_never_those_that_are_never_said() {
    assert_eq!(open(&[TIME], Some(1)), [0, 1, 2, END]);
    assert_eq!(open(&[TIME, 1], Some(1))[..4], [0, 1, 2, END]);
}

#[test]
fn after_words_times_go_on_from_the_last_one() {
    let open = open(&[TIME + 7, 1], None);
    // All times together are likelier than any word.
    assert_eq!((open[0], *open.last().unwrap()), (TIME + 8, TIME + TIMES - 1));
}

#[test]
fn a_time_that_ends_something_is_followed_by_one_or_by_the_end() {
    let open = open(&[TIME, 1, TIME + 9], Some(END));
    assert_eq!(open[..2], [END, TIME + 9]);
    // And after that pair words are said.
    assert_eq!(super::tests::open(&[TIME, 1, TIME + 9, TIME + 9], Some(1)), [0, 1, 2, END]);
}

#[test]
fn a_sum_of_logarithms_is_that_of_what_they_stand_for() {
    let sum = log_sum_exp(&[1.0_f32.ln(), 2.0_f32.ln(), f32::NEG_INFINITY, 5.0_f32.ln()]);
    assert!((sum - 8.0_f32.ln()).abs() < 1e-6);
    assert_eq!(log_sum_exp(&[]), f32::NEG_INFINITY);
}
