//! Migrations run while nodes of the last version serve: they take away nothing that those use and
//! hold no lock for long. What a later release has to clear away says so with a reason:
//!
//! ```sql
//! -- lint: allow drop: no node of a supported version reads it since 1.4
//! ```

use std::{collections::BTreeSet, fs};

use anyhow::{Context as _, Result, bail};

/// Everything up to here was there before any node served.
const FIRST_RELEASE: &str = "20261101090700";

/// What is wrong with a statement, and the name under which that may be allowed.
#[derive(Debug, PartialEq, Eq)]
struct Fault {
    rule: &'static str,
    why: &'static str,
}

pub(crate) fn run() -> Result<()> {
    let dir = crate::root().join("migrations");
    let mut faults = Vec::new();
    let entries = fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))?;
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let version = name.split('_').next().unwrap_or_default();
        if version <= FIRST_RELEASE {
            continue;
        }
        let sql = fs::read_to_string(&file).with_context(|| format!("reading {name}"))?;
        let found = examine(&sql).into_iter();
        faults.extend(found.map(|Fault { rule, why }| format!("{name}: {rule}: {why}")));
    }
    if !faults.is_empty() {
        bail!("migrations that older nodes do not survive:\n{}", faults.join("\n"));
    }
    Ok(())
}

fn examine(sql: &str) -> Vec<Fault> {
    let allowed: BTreeSet<&str> = sql
        .lines()
        .filter_map(|line| line.trim().strip_prefix("-- lint: allow "))
        .filter_map(|rest| rest.split_once(": "))
        .filter(|(_, reason)| !reason.trim().is_empty())
        .map(|(rule, _)| rule)
        .collect();
    let alone = sql.starts_with("-- no-transaction");
    let statements = statements(sql);
    let new: BTreeSet<&str> = statements.iter().filter_map(|words| created_table(words)).collect();
    let mut faults: Vec<Fault> =
        statements.iter().flat_map(|words| faults_of(words, &new, alone)).collect();
    if alone && 1 < statements.len() {
        let why = "a migration outside of a transaction has one statement, or half of it may stay";
        faults.push(Fault { rule: "no-transaction", why });
    }
    faults.retain(|fault| !allowed.contains(fault.rule));
    faults
}

/// The words of each statement in capitals; texts, function bodies and comments left out.
fn statements(sql: &str) -> Vec<Vec<String>> {
    let mut statements = vec![Vec::new()];
    let mut rest = sql;
    while let Some(first) = rest.chars().next() {
        if rest.starts_with("--") {
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
        } else if rest.starts_with("/*") {
            rest = rest.find("*/").map_or("", |end| &rest[end + 2..]);
        } else if first == '\'' {
            rest = rest[1..].find('\'').map_or("", |end| &rest[end + 2..]);
        } else if first == '$'
            && let Some(end) = rest[1..].find('$')
        {
            let quote = &rest[..end + 2];
            let body = &rest[quote.len()..];
            rest = body.find(quote).map_or("", |end| &body[end + quote.len()..]);
        } else if first == ';' {
            statements.push(Vec::new());
            rest = &rest[1..];
        } else if first.is_alphanumeric() || first == '_' {
            let word = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == '.';
            let end = rest.find(|letter| !word(letter)).unwrap_or(rest.len());
            if let Some(words) = statements.last_mut() {
                words.push(rest[..end].to_uppercase());
            }
            rest = &rest[end..];
        } else {
            if let Some(words) = statements.last_mut()
                && matches!(first, ',' | '(' | ')')
            {
                words.push(first.to_string());
            }
            rest = &rest[first.len_utf8()..];
        }
    }
    statements.retain(|words| !words.is_empty());
    statements
}

/// Whether a phrase occurs; `*` stands for any one word.
fn says(words: &[String], phrase: &str) -> bool {
    let phrase: Vec<&str> = phrase.split(' ').collect();
    let matches = |window: &[String]| {
        window.iter().zip(&phrase).all(|(word, wanted)| *wanted == "*" || word == wanted)
    };
    words.windows(phrase.len()).any(matches)
}

fn created_table(words: &[String]) -> Option<&str> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["CREATE", "TABLE", "IF", "NOT", "EXISTS", name, ..] | ["CREATE", "TABLE", name, ..] => {
            Some(*name)
        }
        _ => None,
    }
}

/// The table that a statement changes or indexes.
fn table(words: &[String]) -> &str {
    let after = |word: &str| words.iter().position(|one| one == word).map(|at| at + 1);
    let at = if says(words, "CREATE INDEX") || says(words, "CREATE UNIQUE INDEX") {
        after("ON")
    } else {
        after("TABLE")
    };
    let mut rest = at.map_or(&words[..0], |at| &words[at..]).iter();
    rest.find(|word| !["ONLY", "IF", "EXISTS"].contains(&word.as_str())).map_or("", |word| word)
}

fn faults_of(words: &[String], new: &BTreeSet<&str>, alone: bool) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut fault = |found: bool, rule, why| {
        if found {
            faults.push(Fault { rule, why });
        }
    };
    let begins = |phrase: &str| {
        let length = phrase.split(' ').count();
        words.get(..length).is_some_and(|head| says(head, phrase))
    };
    let dropped = ["TABLE", "FUNCTION", "PROCEDURE", "VIEW", "TYPE", "SCHEMA", "DOMAIN"];
    let drops = dropped.iter().any(|what| begins(&format!("DROP {what}")));
    let why = "older nodes still use it: leave it, and drop it in a later release";
    fault(drops || says(words, "DROP COLUMN"), "drop", why);
    let renames = words.first().is_some_and(|word| word == "ALTER") && says(words, "RENAME");
    fault(renames, "rename", "older nodes use the old name: add the new one beside it");

    let known = table(words);
    if begins("ALTER TABLE") && !new.contains(known) {
        let why = "it rewrites the table under a lock that stops everybody";
        let retyped = says(words, "ALTER COLUMN * TYPE") || says(words, "SET DATA TYPE");
        fault(retyped, "retype", why);
        let volatile = ["GEN_RANDOM_UUID", "RANDOM", "CLOCK_TIMESTAMP", "NEXTVAL", "GENERATED"];
        let added = words.split(|word| word == ",").filter(|part| says(part, "ADD COLUMN"));
        for column in added {
            let rewrites = volatile.iter().any(|word| column.iter().any(|one| one == word));
            fault(rewrites, "rewrite", why);
            let empty = says(column, "NOT NULL") && !says(column, "DEFAULT");
            fault(empty, "not-null", "older nodes do not fill it: give it a default");
        }
        let why = "it reads the whole table under a lock, and older nodes may write nothing there";
        fault(says(words, "SET NOT NULL"), "not-null", why);
        let added = says(words, "ADD CONSTRAINT") || says(words, "ADD FOREIGN KEY");
        let unread = says(words, "NOT VALID") || says(words, "USING INDEX");
        let why = "it reads the whole table under a lock: add it NOT VALID, or USING INDEX";
        fault(added && !unread, "constraint", why);
    }
    let indexes = begins("CREATE INDEX") || begins("CREATE UNIQUE INDEX");
    let concurrent = says(words, "INDEX CONCURRENTLY");
    let why = "writes wait until it is built: CONCURRENTLY, in a migration of its own";
    fault(indexes && !concurrent && !new.contains(known), "index", why);
    let why = "a migration with CONCURRENTLY begins with the line `-- no-transaction`";
    fault(concurrent && !alone, "no-transaction", why);
    fault(begins("LOCK"), "lock", "everybody waits for it");
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(sql: &str) -> Vec<&'static str> {
        examine(sql).into_iter().map(|fault| fault.rule).collect()
    }

    #[test]
    fn what_older_nodes_do_not_survive_is_found() {
        for (sql, rule) in [
            ("DROP TABLE routes", "drop"),
            ("ALTER TABLE routes ADD COLUMN a int, DROP COLUMN name", "drop"),
            ("drop function app.accept(uuid)", "drop"),
            ("ALTER TABLE routes RENAME COLUMN name TO title", "rename"),
            ("ALTER FUNCTION app.accept RENAME TO take", "rename"),
            (
                "ALTER TABLE routes ADD COLUMN a int NOT NULL, ADD COLUMN b int DEFAULT 1",
                "not-null",
            ),
            ("ALTER TABLE routes ALTER COLUMN a SET NOT NULL", "not-null"),
            ("ALTER TABLE routes ALTER COLUMN a TYPE bigint", "retype"),
            ("ALTER TABLE routes ADD COLUMN a uuid DEFAULT gen_random_uuid()", "rewrite"),
            ("ALTER TABLE routes ADD CONSTRAINT c CHECK (a > 0)", "constraint"),
            ("CREATE INDEX i ON inbox (tenant_id)", "index"),
            ("CREATE UNIQUE INDEX CONCURRENTLY i ON inbox (tenant_id)", "no-transaction"),
            ("LOCK TABLE inbox", "lock"),
        ] {
            assert_eq!(rules(sql), [rule], "{sql}");
        }
    }

    #[test]
    fn what_they_do_survive_is_left_alone() {
        for sql in [
            "CREATE TABLE n (a int NOT NULL); CREATE INDEX i ON n (a);\n\
             ALTER TABLE n ADD CONSTRAINT c CHECK (a > 0)",
            "ALTER TABLE routes ADD COLUMN a int NOT NULL DEFAULT 1, ADD COLUMN b text",
            "ALTER TABLE routes ADD CONSTRAINT c CHECK (a > 0) NOT VALID",
            "-- no-transaction\nCREATE INDEX CONCURRENTLY i ON inbox (tenant_id)",
            "-- DROP TABLE routes\nSELECT 'DROP TABLE routes; LOCK'",
            "CREATE OR REPLACE FUNCTION app.f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN\n\
             DROP TABLE x; END $$",
            "CREATE TRIGGER t BEFORE UPDATE ON routes FOR EACH ROW EXECUTE FUNCTION app.f()",
            "DROP TRIGGER t ON routes; DROP POLICY p ON routes",
        ] {
            assert_eq!(rules(sql), [""; 0], "{sql}");
        }
    }

    #[test]
    fn an_exception_needs_a_reason() {
        let sql = "DROP TABLE routes";
        assert_eq!(rules(&format!("-- lint: allow drop: unused since 1.4\n{sql}")), [""; 0]);
        assert_eq!(rules(&format!("-- lint: allow drop: \n{sql}")), ["drop"]);
        assert_eq!(rules(&format!("-- lint: allow index: other\n{sql}")), ["drop"]);
    }
}
