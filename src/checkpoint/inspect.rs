//! What is in a checkpoint or a Hugging Face folder, for people.

use std::fmt::Write;
use std::path::Path;

use crate::model::ModelShape;

use super::hf::HfFolder;
use super::{Checkpoint, CheckpointError, Result, Source, State, tensors};

/// Describes a checkpoint file (and checks every number of it) or a Hugging Face folder.
pub fn inspect(path: &Path) -> Result<String> {
    if path.is_dir() {
        return Ok(folder(&HfFolder::open(path)?));
    }
    let checkpoint = Checkpoint::open(path)?;
    let header = checkpoint.header();
    let mut text = format!("{}: tawpipe checkpoint\n", path.display());
    let _ = writeln!(text, "step      {}\ntokens    {}\nseed      {}", header.step, header.tokens, header.seed);
    model(&mut text, &header.shape);
    checkpoint.verify()?;
    let _ = writeln!(text, "checksums all match");
    table(&mut text, &checkpoint)?;
    let _ = write!(text, "deck:\n{}", header.deck);
    Ok(text)
}

fn folder(folder: &HfFolder) -> String {
    let mut text = format!("{}: Hugging Face folder\n", folder.path().display());
    model(&mut text, folder.shape());
    let _ = writeln!(text, "tensors:");
    for param in tensors(folder.shape()) {
        let (dtype, file) = folder.stored(&param.name);
        let _ = writeln!(text, "  {:<52} {:>16} {dtype} {file}", param.name, format!("{:?}", param.dims()));
    }
    text
}

fn model(text: &mut String, shape: &ModelShape) {
    let _ = writeln!(
        text,
        "model     dim {} layers {} heads {} kv_heads {} head_dim {} ffn {} vocab {} tied {}\n          \
         rope_theta {} norm_eps {}; {} parameters",
        shape.dim,
        shape.layers,
        shape.heads,
        shape.kv_heads,
        shape.head_dim,
        shape.ffn,
        shape.vocab,
        shape.tied,
        shape.rope_theta,
        shape.norm_eps,
        shape.params()
    );
}

/// Every tensor with the root mean square of its weights, which shows a model that has gone astray.
fn table(text: &mut String, checkpoint: &Checkpoint) -> std::result::Result<(), CheckpointError> {
    let _ = writeln!(text, "tensors (f32, with two moments each):");
    let mut buffer = vec![0.0; 1 << 16];
    for param in tensors(checkpoint.shape()) {
        let mut squares = 0.0;
        for start in (0..param.len()).step_by(buffer.len()) {
            let len = buffer.len().min(param.len() - start);
            checkpoint.read_state(State::Weights, &param.name, start, &mut buffer[..len])?;
            squares += buffer[..len].iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
        }
        let rms = (squares / param.len() as f64).sqrt();
        let _ = writeln!(text, "  {:<52} {:>16} rms {rms:.5}", param.name, format!("{:?}", param.dims()));
    }
    Ok(())
}
