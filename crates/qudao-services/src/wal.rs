//! Names of log segments and timelines, and which segments a recovery needs.

use std::{collections::BTreeMap, fmt};

/// Segments of 16 MiB, as `initdb` makes them: so many share the middle part of a name.
const PER_LOG: u64 = 256;
/// The size of a segment.
const BYTES: u64 = 16 << 20;

/// A line of history: each recovery begins a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Timeline(pub(crate) u32);

impl Timeline {
    /// The timeline whose origin the file `00000002.history` tells.
    pub(crate) fn of_history(name: &str) -> Option<Self> {
        let digits = name.strip_suffix(".history")?;
        hex_of(digits, 8).and_then(|number| u32::try_from(number).ok()).map(Self)
    }

    pub(crate) fn history(self) -> String {
        format!("{:08X}.history", self.0)
    }
}

/// A file of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) timeline: Timeline,
    pub(crate) number: u64,
}

impl Segment {
    /// From a name such as `000000010000000000000002`.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        if name.len() != 24 {
            return None;
        }
        let part = |range| name.get(range).and_then(|digits| hex_of(digits, 8));
        let (timeline, log, segment) = (part(0..8)?, part(8..16)?, part(16..24)?);
        let timeline = Timeline(u32::try_from(timeline).ok()?);
        Some(Self { timeline, number: log * PER_LOG + segment })
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { timeline, number } = self;
        write!(f, "{:08X}{:08X}{:08X}", timeline.0, number / PER_LOG, number % PER_LOG)
    }
}

/// The number of the segment with this position of the log, such as `0/2000028`.
pub(crate) fn segment_of(position: &str) -> Option<u64> {
    let (high, low) = position.split_once('/')?;
    let high = u64::from_str_radix(high, 16).ok()?;
    let low = u64::from_str_radix(low, 16).ok()?;
    Some(((high << 32) | low) / BYTES)
}

fn hex_of(digits: &str, length: usize) -> Option<u64> {
    // Postgres writes capitals; a sign would pass for a number otherwise.
    let capital = |byte: u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte);
    let well_formed = digits.len() == length && digits.bytes().all(capital);
    well_formed.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}

/// The timelines that lead to one, the newest first, each with the number of the segment in which
/// it begins: what the history of that one says.
pub(crate) fn lineage(newest: Timeline, history: &str) -> Option<Vec<(Timeline, u64)>> {
    let mut lines = Vec::new();
    let mut begins = 0;
    for line in history.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut words = line.split_whitespace();
        let parent = Timeline(words.next()?.parse().ok()?);
        lines.push((parent, begins));
        begins = segment_of(words.next()?)?;
    }
    lines.push((newest, begins));
    lines.reverse();
    Some(lines)
}

/// The segments from `start` on that lie in the lineage, in order.
///
/// # Errors
/// The number of the first one that is missing though later ones are there: a recovery would
/// end at the hole and take that for the end of the log.
pub(crate) fn needed(
    start: u64,
    lineage: &[(Timeline, u64)],
    held: &BTreeMap<u64, Vec<Timeline>>,
) -> Result<Vec<Segment>, u64> {
    let mut segments = Vec::new();
    let mut hole = None;
    for (number, timelines) in held.range(start..) {
        let found = lineage.iter().filter(|(_, begins)| begins <= number);
        let found: Vec<Timeline> = found.map(|(timeline, _)| *timeline).collect();
        // What an abandoned timeline wrote after the branch is no part of this history.
        let newest_first = found.into_iter().filter(|timeline| timelines.contains(timeline));
        let usable: Vec<Timeline> = newest_first.collect();
        let Some(first) = usable.first() else { continue };
        let after_end =
            lineage.iter().any(|(timeline, begins)| first < timeline && begins < number);
        if after_end {
            continue;
        }
        let expected = segments.last().map_or(start, |last: &Segment| last.number + 1);
        if hole.is_none() && *number != expected {
            hole = Some(expected);
        }
        // The segment of a branch exists on both timelines; the recovery takes the newer one.
        let distinct = segments.last().is_none_or(|last| last.number != *number);
        if distinct {
            segments.push(Segment { timeline: *first, number: *number });
        }
    }
    hole.map_or(Ok(segments), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(list: &[(u32, u64)]) -> BTreeMap<u64, Vec<Timeline>> {
        let mut held = BTreeMap::<u64, Vec<Timeline>>::new();
        for (timeline, number) in list {
            held.entry(*number).or_default().push(Timeline(*timeline));
        }
        held
    }

    fn names(found: Result<Vec<Segment>, u64>) -> Result<Vec<(u32, u64)>, u64> {
        found.map(|list| list.iter().map(|one| (one.timeline.0, one.number)).collect())
    }

    #[test]
    fn names_of_segments_are_read_and_written() {
        let name = "0000000A00000001000000FF";
        let segment = Segment::parse(name).unwrap();
        assert_eq!((segment.timeline, segment.number), (Timeline(10), 511));
        assert_eq!(segment.to_string(), name);
        for other in ["0000000A00000001000000FF.partial", "0000000a00000001000000FF", ""] {
            assert_eq!(Segment::parse(other), None, "{other}");
        }
        assert_eq!(Timeline::of_history("00000002.history"), Some(Timeline(2)));
        assert_eq!(segment_of("1/2000028"), Some(258));
    }

    #[test]
    fn a_history_tells_where_each_timeline_begins() {
        let history = "1\t0/3000110\tno recovery target\n\n2\t0/5000000\tbefore 2026\n";
        let lineage = lineage(Timeline(3), history).unwrap();
        assert_eq!(lineage, [(Timeline(3), 5), (Timeline(2), 3), (Timeline(1), 0)]);
    }

    #[test]
    fn a_hole_in_the_log_is_found_and_its_end_is_none() {
        let one = [(Timeline(1), 0)];
        assert_eq!(
            names(needed(2, &one, &held(&[(1, 1), (1, 2), (1, 3)]))),
            Ok(vec![(1, 2), (1, 3)])
        );
        assert_eq!(names(needed(2, &one, &held(&[(1, 2), (1, 4)]))), Err(3));
        assert_eq!(names(needed(2, &one, &held(&[(1, 3)]))), Err(2));
        assert_eq!(names(needed(2, &one, &held(&[]))), Ok(vec![]));
    }

    #[test]
    fn what_an_abandoned_timeline_wrote_is_left_out() {
        let branched = [(Timeline(2), 3), (Timeline(1), 0)];
        let log = held(&[(1, 2), (1, 3), (2, 3), (1, 4), (1, 5), (2, 4)]);
        assert_eq!(names(needed(2, &branched, &log)), Ok(vec![(1, 2), (2, 3), (2, 4)]));
        // The new timeline has archived nothing yet: the old one's end is the end.
        let log = held(&[(1, 2), (1, 3), (1, 4)]);
        assert_eq!(names(needed(2, &branched, &log)), Ok(vec![(1, 2), (1, 3)]));
    }
}
