//! What multiplies bf16 matrices.

use super::{amx, onednn};

/// What multiplies bf16 matrices, and those of attention. (f32 is multiplied by the crate `gemm`, which oneDNN did not beat.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bf16Products {
    /// AMX, driven by this crate.
    Amx,
    /// The system's oneDNN, if there is one that works on this processor; see [`library`].
    OneDnn,
    /// Blocks widened to f32: works everywhere.
    Widened,
}

impl Bf16Products {
    /// Those that this machine can run, the best first.
    pub fn available() -> Vec<Self> {
        let mut all = vec![Self::best()];
        let others = [
            (Bf16Products::Amx, amx::available()),
            (Bf16Products::OneDnn, onednn::find().is_some()),
            (Bf16Products::Widened, true),
        ];
        all.extend(others.into_iter().filter(|(p, there)| *there && *p != all[0]).map(|(p, _)| p).collect::<Vec<_>>());
        all
    }

    /// The faster one of those that are this program's own.
    pub fn own() -> Self {
        if amx::available() { Bf16Products::Amx } else { Bf16Products::Widened }
    }

    /// The fastest that this machine can run; oneDNN if the environment names one. A library that is not needed is not loaded.
    pub fn best() -> Self {
        if onednn::named() && onednn::find().is_some() {
            return Bf16Products::OneDnn;
        }
        match Self::own() {
            Bf16Products::Widened if onednn::find().is_some() => Bf16Products::OneDnn,
            own => own,
        }
    }

    /// What it is, in words.
    pub fn name(self) -> String {
        match self {
            Bf16Products::Amx => "AMX, the processor's tile unit".into(),
            Bf16Products::OneDnn => library().unwrap_or_else(|| "oneDNN".into()),
            Bf16Products::Widened => "f32 arithmetic".into(),
        }
    }
}

/// The oneDNN that was found at the start and works on this processor, such as `oneDNN 2.6.3`. `TAWPIPE_ONEDNN` may name
/// another one by its path, or say `off`.
pub fn library() -> Option<String> {
    onednn::find().map(onednn::OneDnn::name)
}

/// The file of [`library`].
pub fn library_path() -> Option<String> {
    onednn::find().map(|library| library.path().to_string())
}

/// What is wrong with the library that `TAWPIPE_ONEDNN` names, in one line.
pub fn library_refused() -> Option<&'static str> {
    // Nothing is loaded for one that is not named.
    if onednn::named() { onednn::refused() } else { None }
}
