//! Things to store that arrive at about the same moment share a commit. What comes after a rest goes
//! at once. What comes soon after another waits a moment for company, the longer the longer the last
//! statement took: one about several costs little more than one about one, and a busy node is to spend
//! its time on rows and not on statements.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot},
    time::{self, Instant},
};

/// Things of one commit, at most.
const BATCH: usize = 64;

/// Two commits begin so many times as far apart as the last one took.
const REST: u32 = 16;
/// But no further than this.
const MOST: Duration = Duration::from_millis(60);

/// How often things are committed.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// Commits under way at a time.
    commits: usize,
    /// How far apart two of them begin, at least.
    least: Duration,
    /// So many things need no more company.
    company: usize,
}

/// While one commit waits for the disk, another is written.
const USUAL: Pace = Pace { commits: 2, least: Duration::ZERO, company: 16 };
/// Where the commits would wait for each other's locks: then the second waits here, and takes along
/// what comes meanwhile.
const ONE: Pace = Pace { commits: 1, least: Duration::ZERO, company: 32 };
/// Where no person waits for the outcome. Not for longer: a delivery that a node has made and not
/// written down when it dies is made again.
const UNHURRIED: Pace = Pace { commits: 2, least: Duration::from_millis(40), company: 32 };

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
    pace: Pace,
    /// When the last commit began, and how long the last one took that ended.
    begun: Option<Instant>,
    took: Duration,
}

/// Takes batches until there are no more. If it is dropped before, whoever adds next takes over.
pub struct Leader<T, R> {
    together: Together<T, R>,
    /// When its batch began, while it is committed.
    began: Option<Instant>,
    ended: bool,
}

impl<T, R> Default for Together<T, R> {
    fn default() -> Self {
        Self::with_pace(USUAL)
    }
}

impl<T, R> Together<T, R> {
    /// For things that lock the same rows, such as the wallet of a tenant.
    pub fn one_by_one() -> Self {
        Self::with_pace(ONE)
    }

    /// For things whose outcome no person waits for, of which so many can be under way at the most:
    /// when all of them wait, none comes to keep them company.
    pub fn unhurried(most: usize) -> Self {
        let company = UNHURRIED.company.min(most.max(1));
        Self::with_pace(Pace { company, ..UNHURRIED })
    }

    fn with_pace(pace: Pace) -> Self {
        let queue =
            Queue { waiting: Vec::new(), commits: 0, pace, begun: None, took: Duration::ZERO };
        Self(Arc::new(Shared { queue: Mutex::new(queue), company: Notify::new() }))
    }

    /// Adds a thing. Whoever gets a leader lets it take all batches.
    pub fn add(&self, thing: T) -> (oneshot::Receiver<R>, Option<Leader<T, R>>) {
        let (done, outcome) = oneshot::channel();
        let mut queue = self.queue();
        queue.waiting.push((thing, done));
        let begin = queue.commits < queue.pace.commits;
        queue.commits += usize::from(begin);
        let enough = queue.waiting.len() == queue.pace.company;
        drop(queue);
        // Not under the lock: a leader that a runtime at its end drops would take it again.
        if enough {
            self.0.company.notify_one();
        }
        let together = Self(Arc::clone(&self.0));
        // Made only if it leads: it gives its place back when it is dropped.
        (outcome, begin.then(|| Leader { together, began: None, ended: false }))
    }

    /// How many wait for a commit to begin.
    pub fn waiting(&self) -> usize {
        self.queue().waiting.len()
    }

    fn queue(&self) -> MutexGuard<'_, Queue<T, R>> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T, R> Queue<T, R> {
    /// How long those who wait shall wait for company; `None` if they need none, and if there are none.
    fn alone_until(&self) -> Option<Instant> {
        let until = self.begun? + (self.took * REST).clamp(self.pace.least, MOST);
        let few = (1..self.pace.company).contains(&self.waiting.len());
        (few && Instant::now() < until).then_some(until)
    }
}

impl<T, R> Leader<T, R> {
    /// The next batch when it has gathered, or `None` after the last: whoever adds then begins anew.
    pub async fn gathered(&mut self) -> Option<Batch<T, R>> {
        if let Some(began) = self.began.take() {
            self.together.queue().took = began.elapsed();
        }
        loop {
            let Some(until) = self.together.queue().alone_until() else { return self.next_batch() };
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
        self.began = queue.begun;
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
        assert_eq!(leaders.len(), USUAL.commits);
        let (first, waiting) = leaders[0].next_batch().unwrap();
        assert_eq!((first.len(), waiting.len(), first[1]), (BATCH, BATCH, 1));
        assert_eq!(leaders[1].next_batch().unwrap().0, [BATCH, BATCH + 1, BATCH + 2]);
        assert!(leaders.iter_mut().all(|leader| leader.next_batch().is_none()));
        drop(leaders);
        assert!(together.add(9).1.is_some(), "whoever comes after the last begins anew");
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_goes_at_once_and_the_next_waits_for_company_or_a_moment() {
        let (together, took) = (Together::<usize, usize>::default(), Duration::from_millis(2));
        let apart = took * REST;
        let begun = Instant::now();
        let mut leader = together.add(0).1.unwrap();
        assert_eq!(leader.gathered().await.unwrap().0, [0]);
        assert_eq!(begun.elapsed(), Duration::ZERO);
        time::sleep(took).await;
        let _outcomes = [together.add(1).0, together.add(2).0];
        assert_eq!(leader.gathered().await.unwrap().0, [1, 2]);
        assert!(apart <= begun.elapsed() && begun.elapsed() < apart + took, "{begun:?}");
        time::sleep(took).await;
        // Nobody waits any more.
        assert!(leader.gathered().await.is_none());
        let begun = Instant::now();
        let mut leader = together.add(3).1.unwrap();
        let late = async {
            time::sleep(apart / 2).await;
            (4..4 + USUAL.company).map(|thing| together.add(thing).0).collect::<Vec<_>>()
        };
        let (batch, _outcomes) = tokio::join!(leader.gathered(), late);
        assert_eq!(batch.unwrap().0.len(), 1 + USUAL.company);
        let waited = begun.elapsed();
        assert!(apart / 2 <= waited && waited < apart - took, "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_than_the_most_nor_less_than_the_least() {
        let slow = Together::<usize, usize>::one_by_one();
        let quick = Together::unhurried(usize::MAX);
        for (together, took, apart) in
            [(slow, MOST / 4, MOST), (quick, Duration::ZERO, UNHURRIED.least)]
        {
            let mut leader = together.add(0).1.unwrap();
            leader.gathered().await.unwrap();
            let begun = Instant::now();
            time::sleep(took).await;
            let _outcome = together.add(1).0;
            leader.gathered().await.unwrap();
            let waited = begun.elapsed();
            assert!(apart <= waited && waited < apart + MOST / 8, "{waited:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_that_can_come_are_there_they_wait_for_nobody() {
        let together = Together::<usize, usize>::unhurried(1);
        let mut leader = together.add(0).1.unwrap();
        let begun = Instant::now();
        leader.gathered().await.unwrap();
        let _outcome = together.add(1).0;
        assert_eq!(leader.gathered().await.unwrap().0, [1]);
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[test]
    fn a_leader_that_breaks_off_leaves_its_place_to_another() {
        let together = Together::<usize, usize>::default();
        for thing in 0..3 * USUAL.commits {
            // Dropped at once, as by a panic.
            assert!(together.add(thing).1.is_some());
        }
        let mut leader = together.add(7).1.unwrap();
        assert_eq!(leader.next_batch().unwrap().0.len(), 3 * USUAL.commits + 1);
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
