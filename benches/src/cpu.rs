//! Processor time of a process and all that it started, from `/proc`.

use std::{collections::HashMap, fs, time::Duration};

/// Processor time of a tree of processes, by who spent it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// Everything but the database servers.
    pub own: Duration,
    /// The `postgres` processes.
    pub postgres: Duration,
    /// The Redis server.
    pub redis: Duration,
}

impl Spent {
    /// What was spent since an earlier reading.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            own: self.own.saturating_sub(before.own),
            postgres: self.postgres.saturating_sub(before.postgres),
            redis: self.redis.saturating_sub(before.redis),
        }
    }
}

/// One line of `/proc/<pid>/stat`, as far as it is needed.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    name: String,
    parent: u32,
    /// In ticks of 10 ms, with the children that have ended and were waited for.
    ticks: u64,
}

/// Linux reports processor time in hundredths of a second on every architecture we build for.
const TICK: Duration = Duration::from_millis(10);

/// What the process `root` and its descendants have spent so far.
#[must_use]
pub fn of_tree(root: u32) -> Spent {
    let all: HashMap<u32, Stat> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter_map(|pid| {
            let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            Some((pid, parse(&line)?))
        })
        .collect();
    let mut spent = Spent::default();
    for (pid, stat) in &all {
        if !descends(*pid, root, &all) {
            continue;
        }
        let time = TICK * u32::try_from(stat.ticks).unwrap_or(u32::MAX);
        match stat.name.as_str() {
            "postgres" => spent.postgres += time,
            name if name.starts_with("redis") || name.starts_with("valkey") => spent.redis += time,
            _ => spent.own += time,
        }
    }
    spent
}

fn descends(mut pid: u32, root: u32, all: &HashMap<u32, Stat>) -> bool {
    loop {
        if pid == root {
            return true;
        }
        match all.get(&pid) {
            Some(stat) if stat.parent > 1 => pid = stat.parent,
            _ => return false,
        }
    }
}

/// The name may hold spaces and parentheses, so the fields are counted from its last `)`.
fn parse(line: &str) -> Option<Stat> {
    let (name, rest) = (line.find('(')? + 1, line.rfind(')')?);
    let fields: Vec<&str> = line.get(rest + 1..)?.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Stat {
        name: line.get(name..rest)?.to_owned(),
        parent: u32::try_from(number(1)?).ok()?,
        ticks: number(11)? + number(12)? + number(13)? + number(14)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let line = "77 (a (b) c) S 5 77 77 0 -1 4194304 10 20 0 0 3 4 5 6 20 0 1 0 100 0 0";
        assert_eq!(parse(line), Some(Stat { name: "a (b) c".to_owned(), parent: 5, ticks: 18 }));
    }

    #[test]
    fn busy_work_of_this_process_is_seen() {
        let before = of_tree(std::process::id());
        let begun = std::time::Instant::now();
        let mut n = 0_u64;
        while begun.elapsed() < Duration::from_millis(200) {
            n = std::hint::black_box(n.wrapping_add(1));
        }
        let spent = of_tree(std::process::id()).since(before);
        assert!(spent.own >= TICK, "{spent:?}");
        assert_eq!(spent.postgres, Duration::ZERO);
    }
}
