//! The embedded demo model: data only.
