//! One outcome for all ranks.

use crate::exit::Exit;
use crate::fabric::Control;

/// An error that every rank of the job returns, so that all can end in an orderly way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Agreed {
    /// For the user, one line.
    pub message: String,
    /// How the program ends.
    pub exit: Exit,
    /// Whether this rank shall say it; the others know, but keep quiet.
    pub speaks: bool,
}

impl Agreed {
    /// Something that all ranks have found alike.
    pub fn new(control: &dyn Control, exit: Exit, message: String) -> Self {
        Agreed { message, exit, speaks: control.rank() == 0 }
    }
}

/// Collective. If any rank brings an error, all ranks return the first one, to end with `exit`.
pub fn agree<T>(control: &dyn Control, exit: Exit, outcome: anyhow::Result<T>) -> anyhow::Result<T> {
    let mine = outcome.as_ref().err().map(|error| format!("{error:#}")).unwrap_or_default();
    let mut verdict = Vec::new();
    if let Some(all) = control.gather(mine.as_bytes())
        && let Some((rank, text)) = all.iter().enumerate().find(|(_, text)| !text.is_empty())
    {
        let text = String::from_utf8_lossy(text);
        // Rank 0 looks at files for all, and what every rank finds is no news of one rank.
        let alone = rank > 0 && all.iter().any(|other| *other != all[rank]);
        verdict = if alone { format!("rank {rank}: {text}") } else { text.into_owned() }.into_bytes();
    }
    control.broadcast(0, &mut verdict);
    match outcome {
        Ok(value) if verdict.is_empty() => Ok(value),
        _ => Err(Agreed::new(control, exit, String::from_utf8_lossy(&verdict).into_owned()).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabric::local;

    /// Ranks without an error of their own return that of the first rank with one.
    #[test]
    fn all_ranks_return_the_first_error() {
        let outcomes = local::run(3, Default::default(), |rank, control| {
            let mine = if rank == 0 { Ok(()) } else { Err(anyhow::anyhow!("no file {rank}")) };
            agree(control, Exit::BadInput, mine).unwrap_err().to_string()
        });
        assert_eq!(outcomes, vec!["rank 1: no file 1"; 3]);
        let fine = local::run(2, Default::default(), |_, control| agree(control, Exit::Failure, Ok(7)).unwrap());
        assert_eq!(fine, [7, 7]);
    }
}
