//! Things to store that arrive at about the same moment share a commit. Nothing waits for company:
//! what comes while nothing is being committed goes at once, and what comes meanwhile goes next.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// Commits under way at a time: while one waits for the disk, another is written.
const COMMITS: usize = 2;
/// Where the commits would wait for each other's locks: then the second waits here, and takes
/// along what comes meanwhile.
const ONE: usize = 1;
/// Things of one commit, at most.
const BATCH: usize = 64;

/// What waits to be stored, and who waits for the outcome. Cheap to clone.
pub struct Together<T, R>(Arc<Mutex<Queue<T, R>>>);

/// Things that share a commit, and those who wait for their outcomes, in the same order.
pub type Batch<T, R> = (Vec<T>, Vec<oneshot::Sender<R>>);

struct Queue<T, R> {
    waiting: Vec<(T, oneshot::Sender<R>)>,
    commits: usize,
    most: usize,
}

/// Takes batches until there are no more. If it is dropped before, whoever adds next takes over.
pub struct Leader<T, R> {
    together: Together<T, R>,
    ended: bool,
}

impl<T, R> Default for Together<T, R> {
    fn default() -> Self {
        Self::with_commits(COMMITS)
    }
}

impl<T, R> Together<T, R> {
    /// For things that lock the same rows, such as the wallet of a tenant.
    pub fn one_by_one() -> Self {
        Self::with_commits(ONE)
    }

    fn with_commits(most: usize) -> Self {
        Self(Arc::new(Mutex::new(Queue { waiting: Vec::new(), commits: 0, most })))
    }

    /// Adds a thing. Whoever gets a leader lets it take all batches.
    pub fn add(&self, thing: T) -> (oneshot::Receiver<R>, Option<Leader<T, R>>) {
        let (done, outcome) = oneshot::channel();
        let mut queue = self.queue();
        queue.waiting.push((thing, done));
        let begin = queue.commits < queue.most;
        queue.commits += usize::from(begin);
        let together = Self(Arc::clone(&self.0));
        // Made only if it leads: it gives its place back when it is dropped.
        (outcome, begin.then(|| Leader { together, ended: false }))
    }

    /// How many wait for a commit to begin.
    pub fn waiting(&self) -> usize {
        self.queue().waiting.len()
    }

    fn queue(&self) -> MutexGuard<'_, Queue<T, R>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T, R> Leader<T, R> {
    /// The next batch, or `None` after the last: whoever adds then begins anew.
    pub fn next_batch(&mut self) -> Option<Batch<T, R>> {
        let mut queue = self.together.queue();
        if queue.waiting.is_empty() {
            queue.commits -= 1;
            drop(queue);
            self.ended = true;
            return None;
        }
        let size = queue.waiting.len().min(BATCH);
        let rest = queue.waiting.split_off(size);
        let batch = mem::replace(&mut queue.waiting, rest);
        drop(queue);
        Some(batch.into_iter().unzip())
    }

    /// Lets go of what nobody waits for any more and no commit has begun for.
    pub fn forget_the_gone(&self) {
        self.together.queue().waiting.retain(|(_, done)| !done.is_closed());
    }
}

impl<T, R> Drop for Leader<T, R> {
    fn drop(&mut self) {
        if !self.ended {
            self.together.queue().commits -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_while_two_are_under_way_goes_next_and_nobody_is_left_behind() {
        let together = Together::<usize, usize>::default();
        let (_outcomes, leaders): (Vec<_>, Vec<_>) =
            (0..BATCH + 3).map(|thing| together.add(thing)).unzip();
        let mut leaders: Vec<_> = leaders.into_iter().flatten().collect();
        assert_eq!(leaders.len(), COMMITS);
        let (first, waiting) = leaders[0].next_batch().unwrap();
        assert_eq!((first.len(), waiting.len(), first[1]), (BATCH, BATCH, 1));
        assert_eq!(leaders[1].next_batch().unwrap().0, [BATCH, BATCH + 1, BATCH + 2]);
        assert!(leaders.iter_mut().all(|leader| leader.next_batch().is_none()));
        drop(leaders);
        assert!(together.add(9).1.is_some(), "whoever comes after the last begins anew");
    }

    #[test]
    fn a_leader_that_breaks_off_leaves_its_place_to_another() {
        let together = Together::<usize, usize>::default();
        for thing in 0..3 * COMMITS {
            // Dropped at once, as by a panic.
            assert!(together.add(thing).1.is_some());
        }
        let mut leader = together.add(7).1.unwrap();
        assert_eq!(leader.next_batch().unwrap().0.len(), 3 * COMMITS + 1);
    }

    #[test]
    fn one_by_one_there_is_one_leader() {
        let together = Together::<usize, usize>::one_by_one();
        let mut leader = together.add(1).1.unwrap();
        assert!(together.add(2).1.is_none());
        assert_eq!(leader.next_batch().unwrap().0, [1, 2]);
        assert!(leader.next_batch().is_none() && together.add(3).1.is_some());
    }

    #[test]
    fn those_who_left_are_forgotten() {
        let together = Together::<usize, usize>::default();
        let (outcome, leader) = together.add(1);
        let mut leader = leader.unwrap();
        let _stays = together.add(2).0;
        drop(outcome);
        leader.forget_the_gone();
        assert_eq!(leader.next_batch().unwrap().0, [2]);
    }
}
