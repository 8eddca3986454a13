//! What unmodified Python tools make of our files.
