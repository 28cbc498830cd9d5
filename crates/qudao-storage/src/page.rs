//! Keyset pagination: a cursor names the last row that was seen, so that rows which arrive or
//! go meanwhile neither repeat nor hide others.

use uuid::Uuid;

use crate::{Result, StorageError};

/// Which part of a list to read. Lists run from the newest to the oldest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// At most this many items; from 1 to [`Page::MAX_LIMIT`].
    pub limit: u32,
    /// [`Listing::next`] of the part before, or `None` for the first.
    pub cursor: Option<String>,
}

impl Page {
    /// The most that one part may hold.
    pub const MAX_LIMIT: u32 = 200;

    /// The first part.
    pub fn first(limit: u32) -> Self {
        Self { limit, cursor: None }
    }

    /// One more than asked for, which tells whether there is a next part.
    pub(crate) fn probe_limit(&self) -> i64 {
        i64::from(self.limit.clamp(1, Self::MAX_LIMIT)) + 1
    }

    pub(crate) fn after_id(&self) -> Result<Option<Uuid>> {
        self.parse(|text| (text.len() == 32).then(|| Uuid::try_parse(text).ok()).flatten())
    }

    pub(crate) fn after_number(&self) -> Result<Option<i64>> {
        self.parse(|text| text.parse().ok())
    }

    fn parse<T>(&self, read: impl Fn(&str) -> Option<T>) -> Result<Option<T>> {
        let Some(text) = &self.cursor else { return Ok(None) };
        read(text).map(Some).ok_or(StorageError::BadCursor)
    }
}

impl Default for Page {
    fn default() -> Self {
        Self::first(50)
    }
}

/// Part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing<T> {
    /// The items.
    pub items: Vec<T>,
    /// What to pass as [`Page::cursor`] for the next part; `None` after the last.
    pub next: Option<String>,
}

impl<T> Listing<T> {
    /// Cuts what was read with [`Page::probe_limit`] to size.
    pub(crate) fn cut(mut items: Vec<T>, page: &Page, key: impl Fn(&T) -> String) -> Self {
        let limit = page.limit.clamp(1, Page::MAX_LIMIT) as usize;
        let more = limit < items.len();
        items.truncate(limit);
        let next = if more { items.last().map(key) } else { None };
        Self { items, next }
    }

    /// The same part of the list, of other things.
    pub fn map<U>(self, to: impl FnMut(T) -> U) -> Listing<U> {
        Listing { items: self.items.into_iter().map(to).collect(), next: self.next }
    }
}

/// The cursor for a list that is sorted by id.
pub(crate) fn id_cursor(id: Uuid) -> String {
    id.simple().to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn page(cursor: &str) -> Page {
        Page { cursor: Some(cursor.to_owned()), ..Page::default() }
    }

    proptest! {
        #[test]
        fn any_cursor_is_one_of_ours_or_refused(
            text in "[0-9a-f]{30,34}|-?[0-9]{0,25}|\\PC{0,40}|[{]?[0-9a-f-]{30,40}[}]?",
        ) {
            if let Ok(id) = page(&text).after_id() {
                prop_assert_eq!(id.map(id_cursor), Some(text.to_lowercase()));
            }
            if let Ok(number) = page(&text).after_number() {
                prop_assert!(number.is_some() && text.len() <= 25);
            }
        }

        #[test]
        fn a_cursor_of_ours_is_read_as_it_was_meant(id in any::<u128>(), number in any::<i64>()) {
            let id = Uuid::from_u128(id);
            prop_assert_eq!(page(&id_cursor(id)).after_id().ok(), Some(Some(id)));
            prop_assert_eq!(page(&number.to_string()).after_number().ok(), Some(Some(number)));
        }
    }
}
