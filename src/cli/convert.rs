//! `tawpipe export` and `tawpipe import`: between checkpoints and Hugging Face folders.

use std::path::Path;

use anyhow::bail;

use crate::checkpoint::hf::{ExportOptions, export as write_folder};
use crate::checkpoint::{Checkpoint, Header, Piece, checkpoints, file_name, open, run_folder, save, tensors};
use crate::data::TokenizerChoice;
use crate::deck::Deck;
use crate::exit::Exit;
use crate::fabric::Solo;
use crate::output::outln;

use super::args::{ExportArgs, ImportArgs};
use super::launch::Unusable;

/// Longest sequence of a model that nobody trained here: LLaMA's own.
const POSITIONS: usize = 2048;

/// Writes a Hugging Face folder; the tokenizer and the longest sequence come from the deck that trained the model.
pub fn export(args: &ExportArgs) -> anyhow::Result<Exit> {
    let file = if args.model.is_dir() {
        let newest = checkpoints(&args.model.join("checkpoints"))?.into_iter().next();
        newest.ok_or_else(|| Unusable(format!("{}: no run folder with a checkpoint", args.model.display())))?
    } else {
        args.model.clone()
    };
    let checkpoint = Checkpoint::open(&file)?;
    checkpoint.verify()?;
    let text = &checkpoint.header().deck;
    let deck = (!text.is_empty()).then(|| Deck::parse(text, &file, &[])).transpose()?;
    let tokenizer = deck.as_ref().and_then(|deck| match deck.data.tokenizer.or_kept(run_folder(&file)) {
        TokenizerChoice::File(path) if path.exists() => Some(path),
        TokenizerChoice::File(path) => {
            log::warn!("{}: the tokenizer is gone; the model is exported without it", path.display());
            None
        }
        TokenizerChoice::Bytes => None,
    });
    let positions = deck.as_ref().map_or(POSITIONS, |deck| deck.data.seq);
    write_folder(
        &checkpoint,
        &args.out,
        &ExportOptions { width: args.dtype, positions, tokenizer: tokenizer.as_deref() },
    )?;
    outln!("{}: {} as a Hugging Face folder", args.out.display(), file.display());
    Ok(Exit::Done)
}

/// Writes `step_0.h5`.
pub fn import(args: &ImportArgs) -> anyhow::Result<Exit> {
    let source = open(&args.model)?;
    let path = args.out.join(file_name(0));
    if path.exists() {
        bail!(Unusable(format!("{} exists; nothing was written", path.display())));
    }
    let shape = source.shape().clone();
    let params = tensors(&shape);
    let weights: Vec<Vec<f32>> = params
        .iter()
        .map(|param| {
            let mut values = vec![0.0; param.len()];
            source.read(&param.name, 0, &mut values).map(|()| values)
        })
        .collect::<Result<_, _>>()?;
    let zeros = vec![0.0; weights.iter().map(Vec::len).max().unwrap_or(0)];
    let pieces: Vec<Piece> = params
        .iter()
        .zip(&weights)
        .map(|(param, weights)| {
            let moment = &zeros[..weights.len()];
            Piece { name: &param.name, start: 0, weights, moment1: moment, moment2: moment }
        })
        .collect();
    let header = Header { step: 0, seed: 0, tokens: 0, shape, deck: String::new(), position: None };
    save(Path::new(&args.out), &header, &pieces, &Solo)?;
    outln!("{}: {} as a checkpoint", path.display(), args.model.display());
    Ok(Exit::Done)
}
