//! `tawpipe generate`: a look at what a model writes.

use std::path::Path;

use crate::checkpoint;
use crate::data::{Tokenizer, TokenizerChoice};
use crate::deck::{Deck, DeviceKind};
use crate::device::{Chosen, on_device};
use crate::exit::Exit;
use crate::generate::{Sampler, Window, generate};

use super::args::GenerateArgs;

/// Window of a model whose deck is not at hand.
const WINDOW: usize = 256;

/// Prints the prompt and its continuation.
pub fn run(args: &GenerateArgs) -> anyhow::Result<Exit> {
    let source = checkpoint::open(&args.model)?;
    // A run folder says how its text became tokens, and how long its sequences were.
    let deck = args.model.join("deck.toml");
    let deck = deck.is_file().then(|| Deck::read(&deck, &[])).transpose()?;
    let choice = match (&args.tokenizer, &deck) {
        (Some(path), _) if path == Path::new("bytes") => TokenizerChoice::Bytes,
        (Some(path), _) => TokenizerChoice::File(path.clone()),
        (None, Some(deck)) => deck.data.tokenizer.clone(),
        (None, None) => {
            let beside = args.model.join("tokenizer.json");
            if beside.is_file() { TokenizerChoice::File(beside) } else { TokenizerChoice::Bytes }
        }
    };
    let tokenizer = Tokenizer::load(&choice)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let cpu = deck.as_ref().is_some_and(|deck| deck.run.device == DeviceKind::Cpu);
    let seq = deck.map_or(WINDOW, |deck| deck.data.seq);
    let mut sampler = Sampler::new(args.temperature, args.seed);
    let device = if cpu { Chosen::Cpu { threads } } else { Chosen::alone(threads) };
    let text = on_device!(&device, device => {
        let mut window = Window::new(source.as_ref(), seq, device)?;
        generate(&mut window, &tokenizer, &mut sampler, &args.prompt, args.tokens)?
    });
    println!("{text}");
    Ok(Exit::Done)
}
