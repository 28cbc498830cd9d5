//! What one subscription has yet to read.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use metrics::counter;
use tokio::sync::Notify;

use super::BusEvent;

/// Messages that wait for one reader. Whoever falls further behind is told to read the truth.
const CAPACITY: usize = 256;

/// A bounded queue for one reader. Never waits for it: when it is full, the oldest message goes
/// and the reader sees [`BusEvent::Ready`] in its place.
#[derive(Default)]
pub(super) struct Mailbox {
    held: Mutex<Held>,
    filled: Notify,
}

#[derive(Default)]
struct Held {
    /// Something may have been missed.
    gap: bool,
    messages: VecDeque<Arc<[u8]>>,
}

impl Mailbox {
    /// From now on nothing is missed; what came before may be.
    pub(super) fn ready(&self) {
        self.held().gap = true;
        self.filled.notify_one();
    }

    pub(super) fn put(&self, message: Arc<[u8]>) {
        let mut held = self.held();
        if held.messages.len() == CAPACITY {
            held.messages.pop_front();
            held.gap = true;
            counter!("qudao_bus_overflows_total").increment(1);
        }
        held.messages.push_back(message);
        drop(held);
        self.filled.notify_one();
    }

    /// The next event. Safe to cancel.
    pub(super) async fn next(&self) -> BusEvent {
        loop {
            if let Some(event) = self.take() {
                return event;
            }
            self.filled.notified().await;
        }
    }

    fn take(&self) -> Option<BusEvent> {
        let mut held = self.held();
        if std::mem::take(&mut held.gap) {
            return Some(BusEvent::Ready);
        }
        held.messages.pop_front().map(|message| BusEvent::Message(message.to_vec()))
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(mailbox: &Mailbox) -> Vec<BusEvent> {
        std::iter::from_fn(|| mailbox.take()).collect()
    }

    #[test]
    fn a_reader_who_keeps_up_sees_every_message_in_order() {
        let mailbox = Mailbox::default();
        mailbox.ready();
        for byte in 0..3 {
            mailbox.put([byte].into());
        }
        let messages = (0..3).map(|byte| BusEvent::Message(vec![byte]));
        let expected: Vec<_> = [BusEvent::Ready].into_iter().chain(messages).collect();
        assert_eq!(drain(&mailbox), expected);
    }

    #[test]
    fn a_reader_who_falls_behind_loses_the_oldest_and_is_told() {
        let mailbox = Mailbox::default();
        for index in 0..CAPACITY + 10 {
            mailbox.put(index.to_be_bytes().into());
        }
        let events = drain(&mailbox);
        assert_eq!(events.len(), CAPACITY + 1);
        assert_eq!(events[0], BusEvent::Ready);
        assert_eq!(events[1], BusEvent::Message(10_usize.to_be_bytes().to_vec()));
    }
}
