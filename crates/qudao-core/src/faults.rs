//! Places at which a check under faults may end the process, and bugs that it may switch on to
//! see whether it notices them. Without the feature `failpoints` both macros are nothing: no
//! shipped program holds a trace of them, and `cargo xtask deps` refuses a graph in which one
//! could.

/// Names the step that has just been done, for a check that ends the process there.
#[cfg(feature = "failpoints")]
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {
        $crate::faults::reach(concat!("failpoint:", $name))
    };
}

/// Nothing, without the feature `failpoints`.
#[cfg(not(feature = "failpoints"))]
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {};
}

/// Returns early with what a bug would do, if a check switched that bug on.
#[cfg(feature = "failpoints")]
macro_rules! seeded_bug {
    ($name:literal, $instead:expr) => {
        if $crate::faults::is_seeded(concat!("bug:", $name)) {
            return $instead;
        }
    };
}

/// Nothing, without the feature `failpoints`.
#[cfg(not(feature = "failpoints"))]
macro_rules! seeded_bug {
    ($name:literal, $instead:expr) => {};
}

pub(crate) use seeded_bug;

/// What was set for this point happens now, if anything was.
#[cfg(feature = "failpoints")]
pub fn reach(name: &'static str) {
    fail::fail_point!(name);
}

/// Whether a check switched this bug on.
#[cfg(feature = "failpoints")]
pub(crate) fn is_seeded(name: &'static str) -> bool {
    fail::fail_point!(name, |_| true);
    false
}
