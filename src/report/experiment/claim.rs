//! Which system wins where and by how much, in sentences made of the numbers of a map.

use std::fmt::Write;

use super::map::{Grid, by, family, grid, winner};
use super::view::View;

/// The findings of a map; `None` without one.
pub fn claim(view: &View) -> Option<String> {
    let grid = grid(view)?;
    let points: Vec<usize> = grid.settings.iter().flatten().flatten().copied().collect();
    let winners: Vec<_> = points.iter().filter_map(|&setting| winner(view, setting)).collect();
    let mut kinds: Vec<(&str, &str, usize, f64, f64)> = Vec::new();
    for found in &winners {
        let (kind, ratio) = (family(found.entry), found.over.map_or(f64::INFINITY, |(ratio, _)| ratio));
        match kinds.iter_mut().find(|(other, ..)| *other == kind) {
            Some((_, _, count, least, most)) => {
                (*count, *least, *most) = (*count + 1, least.min(ratio), most.max(ratio));
            }
            None => kinds.push((kind, &found.entry.record.cell.system, 1, ratio, ratio)),
        }
    }
    kinds.sort_by(|a, b| b.2.cmp(&a.2).then(a.1.cmp(b.1)));
    let mut text = format!("Of {} points of sequence length and link speed:\n\n", points.len());
    for (kind, system, count, least, most) in &kinds {
        let lead = if least == most { by(*least) } else { format!("{} to {}", by(*least), by(*most)) };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "- `{system}` is fastest at {count}{}; lead over the fastest of any other kind: {lead}.",
            rates_of(&grid, |setting| winner(view, setting).is_some_and(|w| family(w.entry) == *kind)),
        );
    }
    let none = points.len() - winners.len();
    if none > 0 {
        let _ = writeln!(text, "- At {none} nothing fits.");
    }
    Some(text)
}

/// The links at which something holds for some sequence length.
fn rates_of(grid: &Grid, holds: impl Fn(usize) -> bool) -> String {
    let some = |row: &Vec<Option<usize>>| row.iter().flatten().any(|&setting| holds(setting));
    let rates: Vec<f64> =
        grid.rates.iter().zip(&grid.settings).filter(|(_, row)| some(row)).map(|(rate, _)| rate / 1e9).collect();
    match rates[..] {
        [] => String::new(),
        [one] => format!(" (at {one} Gbit/s)"),
        [first, .., last] => format!(" (between {first} and {last} Gbit/s)"),
    }
}
