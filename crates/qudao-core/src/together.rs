//! Things to store that arrive at about the same moment share a commit. What comes after a rest goes
//! at once. What comes soon after another waits a moment for company, since a statement about several
//! costs little more than one about one: a busy node spends its time on rows and not on statements.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot},
    time::{self, Instant},
};

/// Commits under way at a time: while one waits for the disk, another is written.
const COMMITS: usize = 2;
/// Where the commits would wait for each other's locks: then the second waits here, and takes
/// along what comes meanwhile.
const ONE: usize = 1;
/// Things of one commit, at most.
const BATCH: usize = 64;
/// Two commits begin at least this far apart.
const PACE: Duration = Duration::from_millis(20);
/// But so many things need no more company.
const COMPANY: usize = 16;

/// What waits to be stored, and who waits for the outcome.
pub struct Together<T, R>(Arc<Shared<T, R>>);

struct Shared<T, R> {
    queue: Mutex<Queue<T, R>>,
    company: Notify,
}

/// Things that share a commit, and those who wait for their outcomes, in the same order.
pub type Batch<T, R> = (Vec<T>, Vec<oneshot::Sender<R>>);

struct Queue<T, R> {
    waiting: Vec<(T, oneshot::Sender<R>)>,
    commits: usize,
    most: usize,
    /// When the last commit began.
    begun: Option<Instant>,
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
        let queue = Queue { waiting: Vec::new(), commits: 0, most, begun: None };
        Self(Arc::new(Shared { queue: Mutex::new(queue), company: Notify::new() }))
    }

    /// Adds a thing. Whoever gets a leader lets it take all batches.
    pub fn add(&self, thing: T) -> (oneshot::Receiver<R>, Option<Leader<T, R>>) {
        let (done, outcome) = oneshot::channel();
        let mut queue = self.queue();
        queue.waiting.push((thing, done));
        let begin = queue.commits < queue.most;
        queue.commits += usize::from(begin);
        if queue.waiting.len() == COMPANY {
            self.0.company.notify_one();
        }
        let together = Self(Arc::clone(&self.0));
        // Made only if it leads: it gives its place back when it is dropped.
        (outcome, begin.then(|| Leader { together, ended: false }))
    }

    /// How many wait for a commit to begin.
    pub fn waiting(&self) -> usize {
        self.queue().waiting.len()
    }

    fn queue(&self) -> MutexGuard<'_, Queue<T, R>> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T, R> Leader<T, R> {
    /// The next batch when it has gathered, or `None` after the last: whoever adds then begins anew.
    pub async fn gathered(&mut self) -> Option<Batch<T, R>> {
        loop {
            let (company, begun) = {
                let queue = self.together.queue();
                (queue.waiting.len(), queue.begun)
            };
            let until = begun.map(|begun| begun + PACE).filter(|until| Instant::now() < *until);
            let Some(until) = until.filter(|_| (1..COMPANY).contains(&company)) else {
                return self.next_batch();
            };
            tokio::select! {
                () = time::sleep_until(until) => {}
                () = self.together.0.company.notified() => {}
            }
        }
    }

    fn next_batch(&mut self) -> Option<Batch<T, R>> {
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
        queue.begun = Some(Instant::now());
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

    #[tokio::test(start_paused = true)]
    async fn the_first_goes_at_once_and_the_next_waits_for_company_or_a_moment() {
        let together = Together::<usize, usize>::default();
        let begun = Instant::now();
        let mut leader = together.add(0).1.unwrap();
        assert_eq!(leader.gathered().await.unwrap().0, [0]);
        assert_eq!(begun.elapsed(), Duration::ZERO);
        let _outcomes = [together.add(1).0, together.add(2).0];
        assert_eq!(leader.gathered().await.unwrap().0, [1, 2]);
        assert!(PACE <= begun.elapsed() && begun.elapsed() < 2 * PACE);
        // Nobody waits any more.
        let begun = Instant::now();
        assert!(leader.gathered().await.is_none());
        let (mut leader, late) = (together.add(3).1.unwrap(), Together(Arc::clone(&together.0)));
        tokio::spawn(async move {
            time::sleep(PACE / 2).await;
            let outcomes: Vec<_> = (4..4 + COMPANY).map(|thing| late.add(thing).0).collect();
            for outcome in outcomes {
                let _ = outcome.await;
            }
        });
        assert_eq!(leader.gathered().await.unwrap().0.len(), 1 + COMPANY);
        let took = begun.elapsed();
        assert!(PACE / 2 <= took && took < PACE, "{took:?}");
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
