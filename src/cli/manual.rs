//! Man pages and completions, made from the definitions that the command line is read by.

use std::path::Path;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::aot::{Bash, Fish, Zsh, generate_to};

use crate::exit::Exit;

use super::Cli;

/// The program's name, as in the names of the files.
const NAME: &str = "tawpipe";

/// Writes what `make install` installs below `share`: the places are those where man and the shells look.
pub fn run(share: &Path) -> anyhow::Result<Exit> {
    let folder = |name: &str| {
        let folder = share.join(name);
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string()).map(|()| folder)
    };
    let man = folder("man/man1")?;
    clap_mangen::generate_to(Cli::command(), &man).with_context(|| man.display().to_string())?;
    let bash = generate_to(Bash, &mut Cli::command(), NAME, folder("bash-completion/completions")?)?;
    // The shell looks for a file of the command's own name.
    std::fs::rename(&bash, bash.with_extension("")).with_context(|| bash.display().to_string())?;
    generate_to(Zsh, &mut Cli::command(), NAME, folder("zsh/site-functions")?)?;
    generate_to(Fish, &mut Cli::command(), NAME, folder("fish/vendor_completions.d")?)?;
    Ok(Exit::Done)
}
