//! The detector as a plugin of the platform.
