//! Where keys and values stay between the questions of a conversation, and between conversations.

use std::collections::VecDeque;

use crate::decoder::Cache;
use crate::pages::{Layout, Pages};
use crate::shape::Shape;

/// The keys and values of one model.
pub(crate) enum Store {
    /// In the machine's memory, in pages that conversations share.
    Pages(Pages),
    /// On a device: the caches of finished replies as they are, the latest last.
    Whole {
        /// Whose, of which tokens.
        idle: VecDeque<(String, Vec<u32>, Cache)>,
        /// How many are kept.
        places: usize,
    },
}

impl Store {
    /// Pages for `sequences` replies with full contexts.
    pub(crate) fn pages(shape: &Shape, context: usize, sequences: usize) -> Self {
        let tokens = context.next_multiple_of(crate::pages::PAGE) * sequences;
        Self::Pages(Pages::new(Layout::new(shape), tokens))
    }

    /// A cache for these tokens, with what is known of their beginning. At least the last of them
    /// is left to be computed, for its logits.
    pub(crate) fn begin(&mut self, salt: &str, tokens: &[u32]) -> Cache {
        match self {
            Self::Pages(pages) => {
                let mut cache = Cache::with_table(pages.begin(salt));
                let shared = pages.share(&mut cache.table, 0, tokens);
                cache.grow(shared);
                cache
            }
            Self::Whole { idle, .. } => take_longest(idle, salt, tokens),
        }
    }

    /// Looks again for what has become known since, and makes room for `length` tokens in all.
    /// False if there is no room.
    pub(crate) fn prepare(&mut self, cache: &mut Cache, tokens: &[u32], step: usize) -> bool {
        let Self::Pages(pages) = self else { return true };
        let done = cache.len();
        let shared = pages.share(&mut cache.table, done, &tokens[done..]);
        cache.grow(shared);
        let length = tokens.len().min(cache.len() + step);
        pages.reserve(&mut cache.table, length)
    }

    /// Lets others find what has been computed.
    pub(crate) fn note(&mut self, cache: &mut Cache, tokens: &[u32]) {
        if let Self::Pages(pages) = self {
            let length = cache.len();
            pages.note(&mut cache.table, &tokens[..length]);
        }
    }

    /// Takes a cache back.
    pub(crate) fn end(&mut self, cache: Cache, mut tokens: Vec<u32>, salt: String) {
        tokens.truncate(cache.len());
        match self {
            Self::Pages(pages) => pages.end(cache.table, &tokens, &salt),
            Self::Whole { idle, places } => {
                idle.push_back((salt, tokens, cache));
                while idle.len() > *places {
                    idle.pop_front();
                }
            }
        }
    }
}

/// The idle cache that shares the longest beginning with the tokens, cut to it.
fn take_longest(
    idle: &mut VecDeque<(String, Vec<u32>, Cache)>,
    salt: &str,
    tokens: &[u32],
) -> Cache {
    let shared = |held: &[u32]| held.iter().zip(tokens).take_while(|(a, b)| a == b).count();
    let best = idle
        .iter()
        .enumerate()
        .filter(|(_, (of, ..))| of == salt)
        .map(|(index, (_, held, _))| (shared(held), index))
        .max_by_key(|(length, index)| (*length, *index));
    match best {
        Some((length, index)) if length > 0 => {
            let Some((.., mut cache)) = idle.remove(index) else { return Cache::default() };
            cache.truncate(length.min(tokens.len() - 1));
            cache
        }
        _ => Cache::default(),
    }
}
