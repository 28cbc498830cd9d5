//! Requests of several texts each, and which of their texts go into the next batch: one of each request
//! in turn, so that a single text does not wait for somebody's thousand.

use std::collections::VecDeque;

use crate::text::Read;

/// A request whose texts wait or are done.
#[derive(Debug)]
pub struct Job<T> {
    /// The request.
    pub id: u64,
    /// Whatever the answer needs.
    pub what: T,
    texts: Vec<Read>,
    next: usize,
    done: usize,
    parked: bool,
}

/// A text's place in the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its request.
    pub id: u64,
    /// Its number within the request.
    pub index: usize,
}

/// Requests that are under way.
#[derive(Debug)]
pub struct Queue<T> {
    jobs: VecDeque<Job<T>>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { jobs: VecDeque::new() }
    }
}

impl<T> Job<T> {
    /// A request for these texts.
    pub fn new(id: u64, texts: Vec<Read>, what: T) -> Self {
        Self { id, what, texts, next: 0, done: 0, parked: false }
    }

    /// One of its texts.
    #[must_use]
    pub fn text(&self, index: usize) -> Option<&Read> {
        self.texts.get(index)
    }

    /// Tokens of all its texts.
    #[must_use]
    pub fn tokens(&self) -> u32 {
        let tokens = self.texts.iter().map(|text| text.ids.len()).sum::<usize>();
        u32::try_from(tokens).unwrap_or(u32::MAX)
    }

    /// Tokens of the texts that were computed.
    fn computed(&self) -> u32 {
        let tokens = self.texts[..self.next].iter().map(|text| text.ids.len()).sum::<usize>();
        u32::try_from(tokens).unwrap_or(u32::MAX)
    }
}

impl<T> Queue<T> {
    /// Takes a request in.
    pub fn push(&mut self, job: Job<T>) {
        self.jobs.push_back(job);
    }

    /// Requests that are under way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Whether a text could go into a batch.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.jobs.iter().any(|job| !job.parked && job.next < job.texts.len())
    }

    /// A request that is under way.
    #[must_use]
    pub fn find(&self, id: u64) -> Option<&Job<T>> {
        self.jobs.iter().find(|job| job.id == id)
    }

    /// Leaves a request out of the batches, or takes it in again.
    pub fn park(&mut self, id: u64, parked: bool) {
        if let Some(job) = self.jobs.iter_mut().find(|job| job.id == id) {
            job.parked = parked;
        }
    }

    /// Forgets a request; how many of its tokens were computed.
    pub fn cancel(&mut self, id: u64) -> Option<u32> {
        let at = self.jobs.iter().position(|job| job.id == id)?;
        self.jobs.remove(at).map(|job| job.computed())
    }

    /// The texts of the next batch: about as many tokens as `budget`, and at least one text if one waits.
    pub fn take(&mut self, budget: usize) -> Vec<Place> {
        let mut places = Vec::new();
        let mut tokens = 0;
        loop {
            let before = places.len();
            for job in self.jobs.iter_mut().filter(|job| !job.parked) {
                let Some(text) = job.texts.get(job.next) else { continue };
                if !places.is_empty() && budget < tokens + text.ids.len() {
                    continue;
                }
                tokens += text.ids.len();
                places.push(Place { id: job.id, index: job.next });
                job.next += 1;
            }
            if places.len() == before {
                return places;
            }
        }
    }

    /// A text of a request is answered; the request, if it was the last.
    pub fn finish(&mut self, id: u64) -> Option<Job<T>> {
        let at = self.jobs.iter().position(|job| job.id == id)?;
        let job = self.jobs.get_mut(at)?;
        job.done += 1;
        if job.done < job.texts.len() {
            return None;
        }
        self.jobs.remove(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(id: u64, lengths: &[usize]) -> Job<()> {
        let text =
            |length: &usize| Read { ids: vec![0; *length], words: Vec::new(), truncated: false };
        Job::new(id, lengths.iter().map(text).collect(), ())
    }

    fn taken(queue: &mut Queue<()>, budget: usize) -> Vec<(u64, usize)> {
        queue.take(budget).into_iter().map(|place| (place.id, place.index)).collect()
    }

    #[test]
    fn a_single_text_does_not_wait_for_a_thousand() {
        let mut queue = Queue::default();
        queue.push(job(1, &[10; 1000]));
        queue.push(job(2, &[10]));
        assert_eq!(taken(&mut queue, 40), [(1, 0), (2, 0), (1, 1), (1, 2)]);
        assert!(queue.finish(2).is_some() && queue.finish(1).is_none());
        assert_eq!(taken(&mut queue, 20), [(1, 3), (1, 4)]);
        assert_eq!(queue.cancel(1), Some(50));
        assert!(queue.is_empty() && queue.cancel(1).is_none());
    }

    #[test]
    fn a_text_over_the_budget_goes_alone_and_a_parked_request_waits() {
        let mut queue = Queue::default();
        queue.push(job(1, &[500, 1]));
        queue.push(job(2, &[1]));
        assert_eq!(taken(&mut queue, 100), [(1, 0)]);
        queue.park(1, true);
        assert_eq!(taken(&mut queue, 100), [(2, 0)]);
        assert!(!queue.has_work());
        queue.park(1, false);
        assert_eq!(taken(&mut queue, 100), [(1, 1)]);
    }
}
