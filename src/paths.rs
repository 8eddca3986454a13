//! Paths as people write them in files and options, where no shell has looked at them.

use std::path::{Path, PathBuf};

/// A path with a leading `~` replaced by the home folder. `base` is where a relative path starts.
///
/// # Errors
/// What is wrong with it, for the user: another user's `~name`, or `$NAME`, which only a shell replaces. Taken literally, both
/// would make files where nobody looks for them. A file that is really called so is accepted.
pub fn expand(path: &Path, base: &Path) -> Result<PathBuf, String> {
    let Some(text) = path.to_str() else { return Ok(path.to_path_buf()) };
    if let Some(rest) = text.strip_prefix('~')
        && (rest.is_empty() || rest.starts_with('/'))
    {
        let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
        let home = home.ok_or("written without ~, as HOME is not set")?;
        return Ok(PathBuf::from(home).join(rest.trim_start_matches('/')));
    }
    let literal = || base.join(path).symlink_metadata().is_ok();
    if text.starts_with('~') && !literal() {
        return Err("written out: ~ of another user is not expanded".into());
    }
    if variable(text) && !literal() {
        return Err(
            "written out: variables such as $HOME are not expanded here; a shell expands them in double quotes".into(),
        );
    }
    Ok(path.to_path_buf())
}

/// Whether a shell would replace something: `$NAME` or `${NAME}`.
fn variable(text: &str) -> bool {
    let name = |c: char| c.is_ascii_alphabetic() || c == '_' || c == '{';
    text.split('$').skip(1).any(|rest| rest.starts_with(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The home folder is filled in; what only a shell knows is refused, unless a file is called so.
    #[test]
    fn what_a_shell_would_do() {
        let folder = tempfile::tempdir().unwrap();
        let expand = |text: &str| expand(Path::new(text), folder.path());
        let home = PathBuf::from(std::env::var_os("HOME").expect("tests run with a home"));
        assert_eq!((expand("~"), expand("~/a/b")), (Ok(home.join("")), Ok(home.join("a/b"))));
        for plain in ["a/b", "/a/~", "a~", "cost$", "a/$5"] {
            assert_eq!(expand(plain), Ok(plain.into()));
        }
        for wrong in ["~other/a", "$HOME/a", "a/${B}", "/a/$_c"] {
            assert!(expand(wrong).unwrap_err().starts_with("written out"), "{wrong}");
        }
        std::fs::write(folder.path().join("$HOME"), "").unwrap();
        assert_eq!(expand("$HOME"), Ok("$HOME".into()));
    }
}
