//! Work that begins on the thread that asks for it: what it sends at once is on its way before anything
//! else happens, and no thread is woken until there is something to do. It goes on in the runtime for work,
//! or where it began: what a call waits for, on a thread that serves calls ([`go_on_here`]).

use std::{
    cell::RefCell,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Wake, Waker},
};

use tokio::runtime::Handle;

thread_local! {
    /// The runtime of this thread, where what begins on it goes on.
    static HERE: RefCell<Option<Handle>> = const { RefCell::new(None) };
}

/// Has what calls on this thread wait for go on in the current runtime, which this thread drives.
///
/// # Panics
/// Outside of a runtime.
pub(crate) fn go_on_here() {
    HERE.set(Some(Handle::current()));
}

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Polls `work` here once. Whatever wakes it moves it to the runtime, as a task. A panic ends it, as it
/// would end a task, and not whoever waits for it.
pub(crate) fn spawn_begun(runtime: &Handle, work: impl Future<Output = ()> + Send + 'static) {
    begin(runtime, None, work);
}

/// As [`spawn_begun`], but it stays on this thread if that said so. If the thread's runtime ends first,
/// `runtime` takes the work over; its timers are that one's from the beginning.
pub(crate) fn spawn_here(runtime: &Handle, work: impl Future<Output = ()> + Send + 'static) {
    begin(runtime, HERE.with_borrow(Clone::clone), work);
}

fn begin(runtime: &Handle, here: Option<Handle>, work: impl Future<Output = ()> + Send + 'static) {
    let _entered = runtime.enter();
    let mut work: Work = Box::pin(work);
    let place = Mutex::new(Place::Polled { woken: false });
    let begun = Arc::new(Begun { runtime: runtime.clone(), here, place });
    let waker = Waker::from(Arc::clone(&begun));
    let poll = || work.as_mut().poll(&mut Context::from_waker(&waker));
    if let Ok(Poll::Pending) = catch_unwind(AssertUnwindSafe(poll)) {
        begun.wait(work);
    }
}

/// What the wakers of the first poll lead to.
struct Begun {
    runtime: Handle,
    /// Where it stays.
    here: Option<Handle>,
    place: Mutex<Place>,
}

/// Where the work is.
enum Place {
    /// In its first poll.
    Polled {
        woken: bool,
    },
    Waiting(Work),
    /// A task, or at its end.
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
            self.go_on(work);
        } else {
            *place = Place::Waiting(work);
        }
    }

    fn go_on(&self, work: Work) {
        let runtime = self.runtime.clone();
        match &self.here {
            Some(here) => drop(here.spawn(Lodger { work: Some(work), runtime })),
            None => drop(runtime.spawn(work)),
        }
    }
}

/// Work in a runtime that may end before it.
struct Lodger {
    work: Option<Work>,
    runtime: Handle,
}

impl Future for Lodger {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        // Not in its place meanwhile: a panic is to end it.
        let Some(mut work) = self.work.take() else { return Poll::Ready(()) };
        let polled = {
            let _entered = self.runtime.enter();
            work.as_mut().poll(context)
        };
        if polled.is_pending() {
            self.work = Some(work);
        }
        polled
    }
}

impl Drop for Lodger {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            self.runtime.spawn(work);
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
                self.go_on(work);
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

    /// Runs `work` on a thread with a runtime of its own, as long as that takes.
    fn on_its_own<T: Send>(work: impl AsyncFnOnce() -> T + Send) -> T {
        let own = || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                go_on_here();
                work().await
            })
        };
        thread::scope(|scope| scope.spawn(own).join().unwrap())
    }

    #[test]
    fn on_a_thread_that_serves_calls_it_goes_on_there() {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let handle = runtime.handle();
        on_its_own(async || {
            let (more, told) = oneshot::channel::<()>();
            let (ended, end) = oneshot::channel();
            spawn_here(handle, async move {
                told.await.unwrap();
                yield_now().await;
                tokio::time::sleep(Duration::from_millis(1)).await;
                ended.send(thread::current().id()).unwrap();
            });
            // Woken from elsewhere.
            runtime.spawn(async move { more.send(()) });
            assert_eq!(end.await, Ok(thread::current().id()));
        });
    }

    #[test]
    fn when_the_threads_runtime_ends_the_other_takes_it_over() {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let handle = runtime.handle();
        let (began_on, end) = on_its_own(async || {
            let (gone_on, went_on) = oneshot::channel();
            let (ended, end) = oneshot::channel();
            spawn_here(handle, async move {
                yield_now().await;
                // Armed here, and told there.
                let moment = tokio::time::sleep(Duration::from_millis(50));
                gone_on.send(()).unwrap();
                moment.await;
                ended.send(thread::current().id()).unwrap();
            });
            went_on.await.unwrap();
            (thread::current().id(), end)
        });
        assert_ne!(runtime.block_on(end), Ok(began_on));
    }

    #[test]
    fn a_panic_as_a_task_of_the_thread_ends_it_alone() {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let handle = runtime.handle();
        let (held, dropped) = oneshot::channel::<()>();
        on_its_own(async || {
            spawn_here(handle, async move {
                let _held = held;
                yield_now().await;
                panic!("on purpose");
            });
            assert!(dropped.await.is_err());
        });
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
