//! A request's future without a runtime: whoever wakes it polls it, on their own thread.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use crate::sdk::catch;

/// Nobody polls it.
const IDLE: u8 = 0;
/// Somebody polls it.
const POLLED: u8 = 1;
/// Somebody polls it and has to poll it again afterwards.
const WOKEN: u8 = 2;
/// It is over.
const OVER: u8 = 3;

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

pub(super) struct Task {
    state: AtomicU8,
    work: Mutex<Option<Work>>,
}

impl Task {
    /// Polls the future as far as it goes without waiting.
    pub(super) fn start(work: impl Future<Output = ()> + Send + 'static) {
        let work: Work = Box::pin(work);
        Arc::new(Self { state: AtomicU8::new(IDLE), work: Mutex::new(Some(work)) }).poll();
    }

    fn poll(self: Arc<Self>) {
        // One poller at a time; who comes meanwhile, or from within, leaves word.
        let come = |state| match state {
            IDLE => Some(POLLED),
            // Written anew each time: whoever polls next sees what this waker did before.
            POLLED | WOKEN => Some(WOKEN),
            _ => None,
        };
        let before = self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, come);
        if before != Ok(IDLE) {
            return;
        }
        loop {
            if self.advance() {
                self.state.store(OVER, Ordering::Release);
                return;
            }
            let left =
                self.state.compare_exchange(POLLED, IDLE, Ordering::AcqRel, Ordering::Acquire);
            if left.is_ok() {
                return;
            }
            self.state.swap(POLLED, Ordering::AcqRel);
        }
    }

    /// True when there is nothing left to poll. A panic ends the future, whose guards say so.
    fn advance(self: &Arc<Self>) -> bool {
        let mut place = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(work) = place.as_mut() else { return true };
        let waker = Waker::from(Arc::clone(self));
        let polled = catch(|| work.as_mut().poll(&mut Context::from_waker(&waker)));
        if matches!(polled, Ok(Poll::Pending)) {
            return false;
        }
        let over = place.take();
        drop(place);
        let _ = catch(|| drop(over));
        true
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.poll();
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::AtomicUsize, thread};

    use tokio::sync::Notify;

    use super::*;

    #[test]
    fn it_goes_on_where_it_is_woken_and_no_wake_is_lost() {
        let (notify, passed) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        let (wait, count) = (Arc::clone(&notify), Arc::clone(&passed));
        let home = thread::current().id();
        Task::start(async move {
            assert_eq!(thread::current().id(), home);
            for _ in 0..10_000 {
                wait.notified().await;
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while passed.load(Ordering::Relaxed) < 10_000 {
                        notify.notify_one();
                    }
                });
            }
        });
        assert_eq!(passed.load(Ordering::Relaxed), 10_000);
    }

    #[test]
    fn a_future_that_wakes_itself_is_polled_again() {
        let polls = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&polls);
        Task::start(std::future::poll_fn(move |context| {
            context.waker().wake_by_ref();
            if count.fetch_add(1, Ordering::Relaxed) < 3 { Poll::Pending } else { Poll::Ready(()) }
        }));
        assert_eq!(polls.load(Ordering::Relaxed), 4);
    }

    #[test]
    fn a_panic_drops_the_future_and_goes_no_further() {
        struct Guard(Arc<AtomicUsize>);
        impl Drop for Guard {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let (notify, dropped) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        let (wait, guard) = (Arc::clone(&notify), Guard(Arc::clone(&dropped)));
        Task::start(async move {
            let _guard = guard;
            wait.notified().await;
            panic!("on purpose");
        });
        notify.notify_one();
        notify.notify_one();
        assert_eq!(dropped.load(Ordering::Relaxed), 1);
    }
}
