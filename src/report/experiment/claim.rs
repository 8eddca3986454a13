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
    let mut text = format!(
        "The map has {} settings: sequence lengths combined with rates of a node's link. Systems of one colour count \
         as one kind. The lead of a system is the ratio of its tokens/s to those of the fastest system of any other \
         kind: +12 % means 12 % more tokens/s, 2.3 x means 2.3 times as many, and *level* means a lead of less than \
         1 %.\n\n",
        points.len(),
    );
    for (kind, system, count, least, most) in &kinds {
        let (least, most) = (by(*least), by(*most));
        let lead = if least == most { least } else { format!("{least} to {most}") };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "- `{system}` is fastest in {count} of them{}; its lead: {lead}.",
            rates_of(&grid, |setting| winner(view, setting).is_some_and(|w| family(w.entry) == *kind)),
        );
    }
    let none = points.len() - winners.len();
    if none > 0 {
        let _ = writeln!(text, "- In {none} of them no system runs; the table \"What did not run\" has the reasons.");
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
        [one] => format!(" (links of {one} Gbit/s)"),
        [first, .., last] => format!(" (links of {first} to {last} Gbit/s)"),
    }
}
