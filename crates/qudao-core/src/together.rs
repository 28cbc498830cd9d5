//! Things to store that arrive at about the same moment share a commit. Nothing waits for company:
//! what comes while nothing is being committed goes at once, and what comes meanwhile goes next.

use std::{
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// Commits under way at a time: while one waits for the disk, another is written.
const COMMITS: usize = 2;
/// Things of one commit, at most.
const BATCH: usize = 64;

/// What waits to be stored, and who waits for the outcome.
pub struct Together<T, R> {
    queue: Mutex<Queue<T, R>>,
}

/// Things that share a commit, and those who wait for their outcomes, in the same order.
pub type Batch<T, R> = (Vec<T>, Vec<oneshot::Sender<R>>);

struct Queue<T, R> {
    waiting: Vec<(T, oneshot::Sender<R>)>,
    commits: usize,
}

impl<T, R> Default for Together<T, R> {
    fn default() -> Self {
        Self { queue: Mutex::new(Queue { waiting: Vec::new(), commits: 0 }) }
    }
}

impl<T, R> Together<T, R> {
    /// Adds a thing. Whoever is told `true` takes batches until there are no more.
    pub fn add(&self, thing: T) -> (oneshot::Receiver<R>, bool) {
        let (done, outcome) = oneshot::channel();
        let mut queue = self.queue();
        queue.waiting.push((thing, done));
        let begin = queue.commits < COMMITS;
        queue.commits += usize::from(begin);
        (outcome, begin)
    }

    /// The next batch, or `None` after the last: whoever adds then begins anew.
    pub fn next_batch(&self) -> Option<Batch<T, R>> {
        let mut queue = self.queue();
        if queue.waiting.is_empty() {
            queue.commits -= 1;
            return None;
        }
        let size = queue.waiting.len().min(BATCH);
        let rest = queue.waiting.split_off(size);
        let batch = mem::replace(&mut queue.waiting, rest);
        drop(queue);
        Some(batch.into_iter().unzip())
    }

    fn queue(&self) -> MutexGuard<'_, Queue<T, R>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_while_two_are_under_way_goes_next_and_nobody_is_left_behind() {
        let together = Together::<usize, usize>::default();
        let (_outcomes, began): (Vec<_>, Vec<_>) =
            (0..BATCH + 3).map(|thing| together.add(thing)).unzip();
        assert_eq!(began.iter().filter(|began| **began).count(), COMMITS);
        let (first, waiting) = together.next_batch().unwrap();
        assert_eq!((first.len(), waiting.len(), first[1]), (BATCH, BATCH, 1));
        assert_eq!(together.next_batch().unwrap().0, [BATCH, BATCH + 1, BATCH + 2]);
        assert!(together.next_batch().is_none());
        assert!(together.next_batch().is_none());
        assert!(together.add(9).1, "whoever comes after the last begins anew");
    }
}
