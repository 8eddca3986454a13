//! `tawpipe generate`: a look at what a model writes.

use std::path::Path;

use anyhow::{Context, bail};

use crate::checkpoint::{self, Source};
use crate::data::{Tokenizer, TokenizerChoice};
use crate::deck::{Deck, DeviceKind};
use crate::device::{Chosen, on_device};
use crate::exit::Exit;
use crate::generate::{Sampler, Window, generate};
use crate::output::outln;

use super::args::GenerateArgs;
use super::launch::Unusable;

/// Window of a model that does not say how long its sequences were.
const WINDOW: usize = 256;

/// Longest window of a model that nobody trained here: each token runs the whole window again.
const LONGEST: usize = 2048;

/// Prints the prompt and its continuation.
pub fn run(args: &GenerateArgs) -> anyhow::Result<Exit> {
    let source = checkpoint::open(&args.model)?;
    // A checkpoint says how its text became tokens, and how long its sequences were.
    let deck = match source.deck() {
        "" => None,
        text => Some(Deck::parse(text, source.path(), &[])?),
    };
    let tokenizer = tokenizer(args, source.as_ref(), deck.as_ref())?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let cpu = deck.as_ref().is_some_and(|deck| deck.run.device == DeviceKind::Cpu);
    let positions = source.positions().map(|positions| positions.min(LONGEST));
    let seq = deck.map(|deck| deck.data.seq).or(positions).unwrap_or(WINDOW);
    let mut sampler = Sampler::new(args.temperature, args.seed);
    let device = if cpu { Chosen::cpu(threads) } else { Chosen::alone(threads) };
    let text = on_device!(&device, device => {
        let mut window = Window::new(source.as_ref(), seq, device)?;
        generate(&mut window, &tokenizer, &mut sampler, &args.prompt, args.tokens)?
    });
    outln!("{text}");
    Ok(Exit::Done)
}

/// The tokenizer that was asked for, else the model's own.
fn tokenizer(args: &GenerateArgs, source: &dyn Source, deck: Option<&Deck>) -> anyhow::Result<Tokenizer> {
    let (path, vocab) = (source.path().display(), source.shape().vocab);
    let own = match (&args.tokenizer, deck) {
        (Some(path), _) if path == Path::new("bytes") => return Ok(Tokenizer::Bytes),
        (Some(path), _) => return Ok(Tokenizer::load(&TokenizerChoice::File(path.clone()))?),
        (None, Some(deck)) => deck.data.tokenizer.or_kept(checkpoint::run_folder(source.path())),
        (None, None) => {
            let beside = args.model.join("tokenizer.json");
            if beside.is_file() { TokenizerChoice::File(beside) } else { TokenizerChoice::Bytes }
        }
    };
    if own == TokenizerChoice::Bytes && vocab > 256 {
        bail!(Unusable(format!(
            "{path}: it does not say which tokenizer its {vocab} ids are of; give one with --tokenizer"
        )));
    }
    Tokenizer::load(&own).with_context(|| format!("{path}: its own tokenizer; --tokenizer takes another place of it"))
}
