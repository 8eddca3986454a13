//! `tawpipe train`.

use crate::deck::Deck;
use crate::exit::Exit;
use crate::train::{TrainOptions, train};

use super::args::TrainArgs;

/// Trains what the deck describes.
pub fn run(args: &TrainArgs) -> anyhow::Result<Exit> {
    let read = || Ok(Deck::read(&args.deck.file, &args.deck.sets)?);
    train(read, TrainOptions { resume: args.resume, json: args.json, dry_run: args.dry_run })
}
