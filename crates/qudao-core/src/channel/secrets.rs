//! A channel's secrets: one sealed JSON object, in which an old value stays valid for a while beside
//! the new one.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The values that one secret has had, the newest first.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secrets(BTreeMap<String, Vec<Value>>);

#[derive(Clone, Serialize, Deserialize)]
struct Value {
    text: String,
    /// Until when it is valid; the newest has no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
}

/// The most values of one secret that are valid at a time.
const OVERLAPS: usize = 4;

impl Secrets {
    /// Puts a new value in the place of a secret's; the old ones stay valid for `overlap`. An empty
    /// text removes the secret.
    pub fn set(&mut self, name: &str, text: &str, overlap: Duration, now: Timestamp) {
        let Some(values) = self.0.get_mut(name) else {
            if !text.is_empty() {
                let first = Value { text: text.to_owned(), until: None };
                self.0.insert(name.to_owned(), vec![first]);
            }
            return;
        };
        if text.is_empty() {
            self.0.remove(name);
            return;
        }
        if values.first().is_some_and(|newest| newest.text == text) {
            return;
        }
        let end = now.checked_add(overlap).unwrap_or(Timestamp::MAX);
        for value in &mut *values {
            value.until = Some(value.until.map_or(end, |until| until.min(end)));
        }
        values.retain(|value| value.text != text && value.until.is_none_or(|until| now < until));
        values.insert(0, Value { text: text.to_owned(), until: None });
        values.truncate(OVERLAPS);
    }

    /// The values that are valid now, the newest first.
    pub fn valid(&self, now: Timestamp) -> BTreeMap<String, Vec<String>> {
        let valid = |values: &Vec<Value>| {
            let valid = values.iter().filter(|value| value.until.is_none_or(|until| now < until));
            valid.map(|value| value.text.clone()).collect()
        };
        self.0.iter().map(|(name, values)| (name.clone(), valid(values))).collect()
    }

    /// The names of the secrets that are set.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_value_stays_valid_for_the_overlap_and_no_longer() {
        let now = Timestamp::UNIX_EPOCH;
        let day = Duration::from_secs(86_400);
        let mut secrets = Secrets::default();
        secrets.set("token", "one", day, now);
        secrets.set("token", "two", day, now);
        assert_eq!(secrets.valid(now)["token"], ["two", "one"]);
        assert_eq!(secrets.valid(now + day)["token"], ["two"]);
        secrets.set("token", "one", Duration::ZERO, now);
        assert_eq!(secrets.valid(now)["token"], ["one"]);
        secrets.set("token", "", day, now);
        assert!(secrets.valid(now).is_empty());
    }
}
