//! What the MPI library says of itself.

use mpi::environment;

use crate::fabric::MpiLibrary;

/// The library, while MPI runs.
pub fn library() -> Option<MpiLibrary> {
    if !environment::is_initialized() || environment::is_finalized() {
        return None;
    }
    let (major, minor) = environment::version();
    Some(MpiLibrary {
        name: short(&environment::library_version().unwrap_or_default()),
        standard: format!("{major}.{minor}"),
        threads: format!("{:?}", environment::threading_support()).to_lowercase(),
    })
}

/// Libraries tell name and version first, then how they were built.
fn short(text: &str) -> String {
    let first = text.lines().next().unwrap_or_default().split(',').next().unwrap_or_default();
    let words: Vec<&str> = first.split_whitespace().filter(|word| *word != "Version:").collect();
    if words.is_empty() { "an unknown library".into() } else { words.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the libraries themselves say it.
    #[test]
    fn names_are_short() {
        assert_eq!(short("Open MPI v4.1.4, package: Debian OpenMPI, ident: 4.1.4, May 26, 2022"), "Open MPI v4.1.4");
        assert_eq!(short("MPICH Version:\t4.0.2\nMPICH Release date:\tThu Apr  7 2022"), "MPICH 4.0.2");
        assert_eq!(short("Intel(R) MPI Library 2021.10 for Linux* OS\n"), "Intel(R) MPI Library 2021.10 for Linux* OS");
        assert_eq!(short(""), "an unknown library");
    }
}
