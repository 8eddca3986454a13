//! Tables that define their columns: the head of a column and its meaning are written once, beside each other.

use std::fmt;

use crate::report::Table;

/// A column of a table.
#[derive(Clone, Debug)]
pub struct Column {
    /// Its head, with the unit.
    head: String,
    /// What stands in it, without a full stop.
    meaning: String,
}

impl Column {
    pub fn new(head: impl Into<String>, meaning: impl Into<String>) -> Column {
        Column { head: head.into(), meaning: meaning.into() }
    }
}

/// The column of names.
pub fn series() -> Column {
    Column::new("series", "the system with its options, as the experiment's file calls it")
}

/// The column that tells the settings of an experiment from each other.
pub fn setting() -> Column {
    Column::new(
        "setting",
        "what differs between the settings of this experiment, such as the cluster, the model, the tokens in a \
         sequence, the ranks (as nodes x ranks per node), the link of a node (*unshaped*: no rate was set) and the \
         sequences in a step",
    )
}

/// A table that is written below the definitions of its columns.
#[derive(Clone, Debug)]
pub struct Defined {
    columns: Vec<Column>,
    table: Table,
}

impl Defined {
    pub fn new(columns: Vec<Column>) -> Defined {
        let table = Table::new(columns.iter().map(|column| column.head.clone()).collect());
        Defined { columns, table }
    }

    /// Adds a row of as many cells as there are columns.
    pub fn row(&mut self, cells: Vec<String>) {
        self.table.row(cells);
    }
}

impl fmt::Display for Defined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Columns:\n")?;
        // Neighbours that mean the same, such as one column for each number of ranks, are defined together.
        for alike in self.columns.chunk_by(|a, b| a.meaning == b.meaning) {
            let heads: Vec<String> = alike.iter().map(|column| format!("*{}*", column.head)).collect();
            writeln!(f, "- {}: {}", heads.join(", "), alike[0].meaning)?;
        }
        write!(f, "\n{}", self.table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every head is defined above the table, those of one meaning together.
    #[test]
    fn columns_are_defined_once() {
        let part = |ranks: usize| Column::new(format!("{ranks} ranks"), "efficiency in percent");
        let mut table = Defined::new(vec![Column::new("series", "the system"), part(2), part(4)]);
        table.row(["DDP", "100", "50"].map(String::from).into());
        let text = table.to_string();
        let first = "Columns:\n\n- *series*: the system\n- *2 ranks*, *4 ranks*: efficiency in percent\n\n| series |";
        assert!(text.starts_with(first) && text.contains("| DDP "), "{text}");
    }
}
