//! Token files, tokenizers, and which sequence a step sees.
