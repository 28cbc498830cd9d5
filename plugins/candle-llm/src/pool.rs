//! The engine's threads: a fixed set of workers that share one task at a time.
//!
//! A decoding step is some hundred small parallel regions of tens of microseconds, so the workers
//! spin for a moment before they sleep. The number of threads belongs to the instance (candle's
//! own pool takes it from the environment, once per process) and the threads end with it.

use std::hint::spin_loop;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Rounds a worker spins for the next task before it sleeps: about 20 µs.
const SPINS: u32 = 6_000;

/// Work that every thread takes part in; it shares out its pieces by itself.
pub trait Task: Send + Sync {
    /// Draws pieces until none are left. Thread 0 always takes part; another may come too late.
    fn work(&self, thread: usize);
}

#[derive(Default)]
struct Shared {
    generation: AtomicUsize,
    busy: AtomicUsize,
    stop: AtomicBool,
    failed: AtomicBool,
    task: Mutex<Option<Arc<dyn Task>>>,
}

/// A set of worker threads. The calling thread takes part as thread 0.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts `threads − 1` workers.
    ///
    /// # Errors
    /// When the system gives no more threads.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let workers = (1..threads)
            .map(|index| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new()
                    .name(format!("qudao-llm-{index}"))
                    .spawn(move || serve(&shared, index))
            })
            .collect::<std::io::Result<Vec<_>>>()?;
        Ok(Self { shared, workers })
    }

    /// How many threads take part.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs the task on every thread and hands it back when all are done, so that what it
    /// carried (caches, results) can be taken out again.
    ///
    /// # Panics
    /// When a worker panicked in the task.
    #[expect(clippy::panic, reason = "a panic of the task, carried on to its caller")]
    pub fn run<T: Task + 'static>(&self, task: T) -> T {
        let task = Arc::new(task);
        if !self.workers.is_empty() {
            *lock(&self.shared.task) = Some(Arc::clone(&task) as Arc<dyn Task>);
            self.shared.generation.fetch_add(1, Ordering::Release);
            for worker in &self.workers {
                worker.thread().unpark();
            }
        }
        task.work(0);
        // A worker that has not begun by now finds nothing left: on a busy machine it may not
        // run for milliseconds, and its share has been drawn by the others.
        *lock(&self.shared.task) = None;
        let mut spins = 0u32;
        while self.shared.busy.load(Ordering::Acquire) > 0 {
            spins += 1;
            if spins < SPINS { spin_loop() } else { std::thread::yield_now() }
        }
        match Arc::into_inner(task) {
            Some(task) if !self.shared.failed.swap(false, Ordering::Relaxed) => task,
            _ => panic!("a worker thread panicked"),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.generation.fetch_add(1, Ordering::Release);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker that panicked has already reported it through `run`.
            drop(worker.join());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(shared: &Shared, index: usize) {
    let mut seen = 0;
    loop {
        let mut spins = 0;
        loop {
            let now = shared.generation.load(Ordering::Acquire);
            if now != seen {
                seen = now;
                break;
            }
            spins += 1;
            if spins < SPINS { spin_loop() } else { std::thread::park() }
        }
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let task = {
            let slot = lock(&shared.task);
            // Counted under the lock: `run` empties the slot before it looks at the count.
            if slot.is_some() {
                shared.busy.fetch_add(1, Ordering::Relaxed);
            }
            slot.clone()
        };
        if let Some(task) = task {
            // The task must be let go of before `busy` falls: `run` takes it back then.
            if catch_unwind(AssertUnwindSafe(|| task.work(index))).is_err() {
                shared.failed.store(true, Ordering::Relaxed);
            }
            drop(task);
            shared.busy.fetch_sub(1, Ordering::Release);
        }
    }
}

/// A counter from which the threads of one task draw their pieces.
#[derive(Default)]
pub struct Cursor(AtomicUsize);

impl Cursor {
    /// The next piece below `end`.
    pub fn next(&self, end: usize) -> Option<usize> {
        let piece = self.0.fetch_add(1, Ordering::Relaxed);
        (piece < end).then_some(piece)
    }
}

/// Fewer rows than this are not worth waking the threads for.
const ROWS_WORTH_SHARING: usize = 4;

struct ByRows<T, F> {
    work: F,
    rows: usize,
    /// Rows of a piece.
    span: usize,
    cursor: Cursor,
    results: Vec<Mutex<Option<T>>>,
}

impl<T: Send, F: Fn(Range<usize>) -> T + Send + Sync> Task for ByRows<T, F> {
    fn work(&self, _thread: usize) {
        while let Some(piece) = self.cursor.next(self.results.len()) {
            let from = piece * self.span;
            let result = (self.work)(from..self.rows.min(from + self.span));
            *lock(&self.results[piece]) = Some(result);
        }
    }
}

/// Shares out rows that do not depend on each other. The results are in the rows' order.
pub fn by_rows<T, F>(pool: &Pool, rows: usize, work: F) -> Vec<T>
where
    T: Send + 'static,
    F: Fn(Range<usize>) -> T + Send + Sync + 'static,
{
    if rows < ROWS_WORTH_SHARING || pool.threads() == 1 {
        return vec![work(0..rows)];
    }
    let span = rows.div_ceil(pool.threads() * 2);
    let results = (0..rows.div_ceil(span)).map(|_| Mutex::new(None)).collect();
    let done = pool.run(ByRows { work, rows, span, cursor: Cursor::default(), results });
    let results = done.results.into_iter();
    results
        .filter_map(|result| result.into_inner().unwrap_or_else(PoisonError::into_inner))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    struct Squares {
        cursor: Cursor,
        results: Vec<Mutex<usize>>,
    }

    impl Task for Squares {
        fn work(&self, _thread: usize) {
            while let Some(piece) = self.cursor.next(self.results.len()) {
                *lock(&self.results[piece]) = piece * piece;
            }
        }
    }

    #[derive(Default)]
    struct Fails(AtomicBool);

    impl Task for Fails {
        fn work(&self, thread: usize) {
            if thread != 0 {
                self.0.store(true, Ordering::Relaxed);
            }
            assert_eq!(thread, 0, "on purpose");
            // The worker has to begin before the caller is done.
            let begun = Instant::now();
            while !self.0.load(Ordering::Relaxed) && begun.elapsed() < PATIENCE {
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn every_piece_is_done_once_by_any_number_of_threads() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads).unwrap();
            for _ in 0..200 {
                let results = (0..37).map(|_| Mutex::new(0)).collect();
                let done = pool.run(Squares { cursor: Cursor::default(), results });
                for (piece, result) in done.results.into_iter().enumerate() {
                    assert_eq!(result.into_inner().unwrap(), piece * piece);
                }
            }
        }
    }

    #[test]
    fn rows_come_back_in_their_order() {
        for threads in [1, 3] {
            let pool = Pool::new(threads).unwrap();
            for rows in [0, 1, 3, 4, 5, 17, 64] {
                let parts = by_rows(&pool, rows, Vec::from_iter);
                assert_eq!(parts.concat(), (0..rows).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_panic_in_a_worker_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2).unwrap();
        assert!(catch_unwind(AssertUnwindSafe(|| pool.run(Fails::default()))).is_err());
        let results = (0..5).map(|_| Mutex::new(0)).collect();
        let done = pool.run(Squares { cursor: Cursor::default(), results });
        assert_eq!(done.results.len(), 5);
    }
}
