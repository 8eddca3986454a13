//! The two zero-bubble schedules that Qi et al. (ICLR 2024) made by hand; papers.md §6.2.

use super::Task;
use super::clock::{Item, Order, Pass};

/// 1F1B whose stage i of p (from 0) runs `ahead` forwards for each stage behind it before its first backward, and the
/// gradients of its parameters `ahead` micro-batches late for each stage before it: as much work as the bubble at its
/// end can hold.
pub fn order(task: &Task, ahead: usize) -> Order {
    let stage = |chunk: usize| {
        let item = |pass, micro| Item { pass, micro, chunk };
        let warm = (ahead * (task.stages.ranks - 1 - chunk)).min(task.micros);
        let late = ahead * chunk;
        let mut list: Vec<Item> = (0..warm).map(|micro| item(Pass::Forward, micro)).collect();
        for micro in 0..task.micros {
            if micro + warm < task.micros {
                list.push(item(Pass::Forward, micro + warm));
            }
            list.push(item(Pass::Backward, micro));
            if micro >= late {
                list.push(item(Pass::Weight, micro - late));
            }
        }
        list.extend((task.micros.saturating_sub(late)..task.micros).map(|micro| item(Pass::Weight, micro)));
        list
    };
    (0..task.stages.ranks).map(stage).collect()
}
