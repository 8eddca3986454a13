//! The simulator: schedules of the literature in unit costs, links that are shared, and numbers that add up.

mod golden;
mod machines;
mod model;
mod prices;
