//! How many more events a request may emit before its reader has caught up.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use qudao_plugin_api::abi::{QD_E_AGAIN, QD_E_CANCELLED};

#[derive(Debug)]
struct Inner {
    left: u32,
    starved: bool,
    closed: bool,
    /// Threads that wait. Without any nobody is woken, which would cost a system call each time.
    waiting: u32,
}

/// A counter that one side takes from and the other gives back to.
#[derive(Debug)]
pub(crate) struct Credit {
    inner: Mutex<Inner>,
    news: Condvar,
}

impl Credit {
    pub(crate) const fn new(window: u32) -> Self {
        let inner = Inner { left: window, starved: false, closed: false, waiting: 0 };
        Self { inner: Mutex::new(inner), news: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes all of `n` or nothing: what is left, or `QD_E_AGAIN`, or `QD_E_CANCELLED`.
    pub(crate) fn take(&self, n: u32) -> i32 {
        let mut inner = self.lock();
        if inner.closed {
            return QD_E_CANCELLED;
        }
        if inner.left < n {
            inner.starved = true;
            return QD_E_AGAIN;
        }
        inner.left -= n;
        i32::try_from(inner.left).unwrap_or(i32::MAX)
    }

    /// Gives `n` back; the total if somebody was refused since the last grant.
    pub(crate) fn give(&self, n: u32) -> Option<u32> {
        let mut inner = self.lock();
        inner.left += n;
        if 0 < inner.waiting {
            self.news.notify_all();
        }
        std::mem::take(&mut inner.starved).then_some(inner.left)
    }

    /// Refuses everything from now on and wakes who waits.
    pub(crate) fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        if 0 < inner.waiting {
            self.news.notify_all();
        }
    }

    pub(crate) fn left(&self) -> u32 {
        self.lock().left
    }

    /// Waits for credit: what there is, 0 after `timeout`, or `QD_E_CANCELLED`.
    pub(crate) fn wait(&self, timeout: Duration) -> i32 {
        let mut inner = self.lock();
        inner.waiting += 1;
        let waited =
            self.news.wait_timeout_while(inner, timeout, |inner| inner.left == 0 && !inner.closed);
        let mut inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        inner.waiting -= 1;
        if inner.closed { QD_E_CANCELLED } else { i32::try_from(inner.left).unwrap_or(i32::MAX) }
    }
}
