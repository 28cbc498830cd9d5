//! The assembled system, tested from outside.
