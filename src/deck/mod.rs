//! Decks: what a run is asked to do, read from TOML and validated.
