//! Who is served next: those who wait take turns by whom they are for, so that one tenant's
//! hundred requests do not stand before another's first.

use std::collections::VecDeque;

/// Things that wait, in a lane for each key.
pub struct Turns<T> {
    lanes: VecDeque<(String, VecDeque<T>)>,
    length: usize,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self { lanes: VecDeque::new(), length: 0 }
    }
}

impl<T> Turns<T> {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// How many wait under this key.
    pub fn waiting(&self, key: &str) -> usize {
        self.lanes.iter().find(|(of, _)| of == key).map_or(0, |(_, lane)| lane.len())
    }

    /// How many keys there are.
    pub fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// Puts something at the end of its lane.
    pub fn push(&mut self, key: &str, item: T) {
        self.length += 1;
        match self.lanes.iter_mut().find(|(of, _)| of == key) {
            Some((_, lane)) => lane.push_back(item),
            None => self.lanes.push_back((key.to_owned(), VecDeque::from([item]))),
        }
    }

    /// Puts something back at the head of its lane, and its lane first.
    pub fn push_first(&mut self, key: &str, item: T) {
        self.length += 1;
        let mut lane = match self.lanes.iter().position(|(of, _)| of == key) {
            Some(at) => self.lanes.remove(at).map(|(_, lane)| lane).unwrap_or_default(),
            None => VecDeque::new(),
        };
        lane.push_front(item);
        self.lanes.push_front((key.to_owned(), lane));
    }

    /// The next in turn: of the keys for which the fewest are `busy`, the one that has waited
    /// longest since it was served.
    pub fn pop(&mut self, busy: impl Fn(&str) -> usize) -> Option<T> {
        let at = (0..self.lanes.len()).min_by_key(|at| busy(&self.lanes[*at].0))?;
        let (key, mut lane) = self.lanes.remove(at)?;
        let item = lane.pop_front();
        if !lane.is_empty() {
            self.lanes.push_back((key, lane));
        }
        self.length -= usize::from(item.is_some());
        item
    }

    /// Takes out what is meant.
    pub fn remove(&mut self, mut is_meant: impl FnMut(&T) -> bool) -> Option<T> {
        let find = |lane: &VecDeque<T>, meant: &mut dyn FnMut(&T) -> bool| {
            lane.iter().position(&mut *meant)
        };
        let (lane, at) = self
            .lanes
            .iter()
            .enumerate()
            .find_map(|(index, (_, lane))| find(lane, &mut is_meant).map(|at| (index, at)))?;
        let item = self.lanes[lane].1.remove(at);
        if self.lanes[lane].1.is_empty() {
            self.lanes.remove(lane);
        }
        self.length -= usize::from(item.is_some());
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(turns: &mut Turns<u32>) -> Vec<u32> {
        std::iter::from_fn(|| turns.pop(|_| 0)).collect()
    }

    #[test]
    fn keys_take_turns_and_each_keeps_its_order() {
        let mut turns = Turns::default();
        for item in [1, 2, 3] {
            turns.push("loud", item);
        }
        turns.push("quiet", 10);
        turns.push("quiet", 11);
        assert_eq!((turns.len(), turns.lanes(), turns.waiting("loud")), (5, 2, 3));
        assert_eq!(drain(&mut turns), [1, 10, 2, 11, 3]);
        assert!(turns.is_empty() && turns.lanes() == 0);
    }

    #[test]
    fn whoever_has_less_under_way_comes_first() {
        let mut turns = Turns::default();
        turns.push("loud", 1);
        turns.push("quiet", 10);
        let busy = |key: &str| if key == "loud" { 3 } else { 0 };
        assert_eq!(turns.pop(busy), Some(10));
        assert_eq!(turns.pop(busy), Some(1));
    }

    #[test]
    fn one_that_comes_back_is_first_and_one_that_leaves_is_gone() {
        let mut turns = Turns::default();
        turns.push("a", 1);
        turns.push("b", 2);
        turns.push_first("b", 3);
        assert_eq!(turns.remove(|item| *item == 1), Some(1));
        assert_eq!(turns.remove(|item| *item == 1), None);
        assert_eq!(drain(&mut turns), [3, 2]);
    }
}
