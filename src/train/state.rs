//! How far a run has come: what the next step needs to know beside the weights, and what a checkpoint keeps of it.

use crate::checkpoint::{Header, Position};
use crate::data::Dataset;
use crate::deck::Deck;
use crate::model::ModelShape;
use crate::plan::Batch;

/// How far a run has come; the same on all ranks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunState {
    /// Steps taken.
    pub step: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// The rest.
    pub position: Position,
}

impl RunState {
    /// Before the first step.
    pub fn start(seq: usize) -> Self {
        RunState { position: Position { seq, ..Position::default() }, ..RunState::default() }
    }

    /// Behind a checkpoint, for a run whose sequences are `seq` tokens long: of the data, the next sequence is read, or the
    /// first one behind the tokens that have been read if sequences had another length.
    pub fn after(header: &Header, dataset: &Dataset, seq: usize) -> Self {
        let mut position = header.position.clone().unwrap_or_else(|| {
            // Of version 0.1, which counted batches of the deck, and applied every update; or a model that was imported.
            let old = toml::from_str::<toml::Table>(&header.deck).ok();
            let old = old.and_then(|deck| usize::try_from(deck.get("data")?.get("seq")?.as_integer()?).ok());
            let seq = old.filter(|seq| *seq > 0).unwrap_or(seq);
            Position { sequences: header.tokens / seq as u64, seq, updates: header.step, ..Position::default() }
        });
        if position.seq != seq {
            position.sequences = dataset.behind(position.sequences, position.seq);
            position.seq = seq;
        }
        RunState { step: header.step, tokens: header.tokens, position }
    }

    /// Notes that a batch has been read.
    pub fn advance(&mut self, batch: Batch) {
        self.step += 1;
        self.tokens += batch.tokens() as u64;
        self.position.sequences += (batch.micro * batch.micros) as u64;
    }

    /// What a checkpoint says about the run.
    pub fn header(&self, deck: &Deck, shape: &ModelShape) -> Header {
        Header {
            step: self.step,
            seed: deck.run.seed,
            tokens: self.tokens,
            shape: shape.clone(),
            deck: deck.to_toml(),
            position: Some(self.position.clone()),
        }
    }
}
