//! `tawpipe tokenize`.

use std::path::Path;

use crate::data::{Tokenizer, TokenizerChoice};
use crate::exit::Exit;
use crate::output::outln;

use super::args::TokenizeArgs;

/// Writes the token file.
pub fn run(args: &TokenizeArgs) -> anyhow::Result<Exit> {
    let choice = match args.tokenizer.as_path() {
        bytes if bytes == Path::new("bytes") => TokenizerChoice::Bytes,
        file => TokenizerChoice::File(file.to_path_buf()),
    };
    let tokenizer = Tokenizer::load(&choice)?;
    let tokens = tokenizer.encode_file(&args.text, &args.out, args.token_type)?;
    let unused = match tokenizer.unused() {
        0 => String::new(),
        unused => format!(", {unused} ids of it unused"),
    };
    outln!("{}: {tokens} tokens, vocabulary {}{unused}", args.out.display(), tokenizer.vocab());
    Ok(Exit::Done)
}
