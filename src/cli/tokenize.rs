//! `tawpipe tokenize`.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::bail;

use crate::data::{Tokenizer, TokenizerChoice};
use crate::exit::Exit;
use crate::output::outln;

use super::args::TokenizeArgs;
use super::launch::Unusable;

/// Writes the token file.
pub fn run(args: &TokenizeArgs) -> anyhow::Result<Exit> {
    let choice = match args.tokenizer.as_path() {
        bytes if bytes == Path::new("bytes") => TokenizerChoice::Bytes,
        file => TokenizerChoice::File(file.to_path_buf()),
    };
    for input in [&args.text, &args.tokenizer] {
        if same(input, &args.out) {
            let (input, out) = (input.display(), args.out.display());
            bail!(Unusable(format!("--out {out} is the file {input} that is read; nothing was written")));
        }
    }
    let tokenizer = Tokenizer::load(&choice)?;
    let tokens = tokenizer.encode_file(&args.text, &args.out, args.token_type)?;
    let unused = match tokenizer.unused() {
        0 => String::new(),
        unused => format!(", {unused} ids of it unused"),
    };
    outln!("{}: {tokens} tokens, vocabulary {}{unused}", args.out.display(), tokenizer.vocab());
    Ok(Exit::Done)
}

/// Whether two paths are one file, also by way of links.
fn same(a: &Path, b: &Path) -> bool {
    let number = |path: &Path| path.metadata().ok().map(|about| (about.dev(), about.ino()));
    number(a).is_some_and(|a| Some(a) == number(b))
}
