//! Work that begins on the thread that asks for it and goes on in a runtime: what it sends at once is
//! on its way before another thread takes over, and none is woken until there is something to do.

use std::{
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Wake, Waker},
};

use tokio::runtime::Handle;

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Polls `work` here once. Whatever wakes it moves it to the runtime, as a task. A panic ends it, as it
/// would end a task, and not whoever waits for it.
pub(crate) fn spawn_begun(runtime: &Handle, work: impl Future<Output = ()> + Send + 'static) {
    let _entered = runtime.enter();
    let mut work: Work = Box::pin(work);
    let place = Mutex::new(Place::Polled { woken: false });
    let begun = Arc::new(Begun { runtime: runtime.clone(), place });
    let waker = Waker::from(Arc::clone(&begun));
    let poll = || work.as_mut().poll(&mut Context::from_waker(&waker));
    if let Ok(Poll::Pending) = catch_unwind(AssertUnwindSafe(poll)) {
        begun.wait(work);
    }
}

/// What the wakers of the first poll lead to.
struct Begun {
    runtime: Handle,
    place: Mutex<Place>,
}

/// Where the work is.
enum Place {
    /// In its first poll.
    Polled {
        woken: bool,
    },
    Waiting(Work),
    /// In the runtime, or at its end.
    Gone,
}

impl Begun {
    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, work: Work) {
        let mut place = self.place();
        if matches!(*place, Place::Polled { woken: true }) {
            *place = Place::Gone;
            drop(place);
            self.runtime.spawn(work);
        } else {
            *place = Place::Waiting(work);
        }
    }
}

impl Wake for Begun {
    fn wake(self: Arc<Self>) {
        let mut place = self.place();
        match mem::replace(&mut *place, Place::Gone) {
            Place::Polled { .. } => *place = Place::Polled { woken: true },
            Place::Waiting(work) => {
                drop(place);
                self.runtime.spawn(work);
            }
            Place::Gone => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use tokio::{runtime::Builder, sync::oneshot, task::yield_now};

    use super::*;

    #[test]
    fn it_begins_here_and_goes_on_in_the_runtime() {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (more, told) = oneshot::channel();
        let (ended, end) = oneshot::channel();
        let (begun, beginning) = std::sync::mpsc::channel();
        spawn_begun(runtime.handle(), async move {
            begun.send(thread::current().id()).unwrap();
            let word: u8 = told.await.unwrap();
            // One that wakes itself, and one that a timer of the runtime's wakes.
            yield_now().await;
            tokio::time::sleep(Duration::from_millis(1)).await;
            ended.send((word, thread::current().id())).unwrap();
        });
        assert_eq!(beginning.try_recv(), Ok(thread::current().id()));
        more.send(7).unwrap();
        let (word, end) = runtime.block_on(end).unwrap();
        assert_eq!(word, 7);
        assert_ne!(end, thread::current().id());
    }

    #[test]
    fn what_wakes_it_during_the_first_poll_is_not_lost() {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (ended, end) = oneshot::channel();
        spawn_begun(runtime.handle(), async move {
            yield_now().await;
            ended.send(()).unwrap();
        });
        runtime.block_on(end).unwrap();
    }

    #[test]
    fn a_panic_ends_it_alone() {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (held, dropped) = oneshot::channel::<()>();
        spawn_begun(runtime.handle(), async move {
            let _held = held;
            panic!("on purpose");
        });
        assert!(runtime.block_on(dropped).is_err());
    }
}
