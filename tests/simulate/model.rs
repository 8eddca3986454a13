//! Shared links and cores, overlap, and numbers that add up.
