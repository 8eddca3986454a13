//! A Hugging Face folder: one safetensors file, or several with an index.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::model::ModelShape;

use super::super::{CheckpointError, Result, Source, tensors};
use super::config::read_positions;
use super::tensors::BUFFER;
use super::tensors::wrong_type;
use super::{TensorFile, read_config};

/// The embedding's weights.
const EMBEDDING: &str = "model.embed_tokens.weight";

/// The head's weights.
const HEAD: &str = "lm_head.weight";

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    /// Tensor name to file name.
    weight_map: BTreeMap<String, String>,
}

/// An open Hugging Face folder whose tensors are all there, of the right shape and type.
#[derive(Debug)]
pub struct HfFolder {
    path: PathBuf,
    shape: ModelShape,
    positions: Option<usize>,
    files: Vec<TensorFile>,
    /// Which file holds a tensor.
    home: HashMap<String, usize>,
}

impl HfFolder {
    /// Opens a folder and checks everything but the numbers.
    pub fn open(path: &Path) -> Result<Self> {
        let config = path.join("config.json");
        let (mut shape, positions) = (read_config(&config)?, read_positions(&config)?);
        let (single, index) = (path.join("model.safetensors"), path.join("model.safetensors.index.json"));
        let mut home = HashMap::new();
        let mut files = Vec::new();
        let list = if single.is_file() {
            files.push(TensorFile::open(&single)?);
            home.extend(files[0].names().into_iter().map(|name| (name.to_string(), 0)));
            single
        } else if index.is_file() {
            open_sharded(path, &index, &mut files, &mut home)?;
            index
        } else {
            let text = "has neither model.safetensors nor model.safetensors.index.json";
            return Err(CheckpointError::damaged(path, text));
        };
        shape.tied = shape.tied && !own_head(&files, &home)?;
        let folder = HfFolder { path: path.to_path_buf(), shape, positions, files, home };
        folder.complete(&list)?;
        Ok(folder)
    }

    /// Stored type and file name of a tensor of the model.
    ///
    /// # Panics
    /// If the model has no such tensor.
    pub fn stored(&self, name: &str) -> (&str, String) {
        let file = &self.files[self.home[name]];
        let file_name = file.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        (&file.places[name].dtype, file_name)
    }

    /// Every tensor of the model is there and right, and no other is.
    fn complete(&self, list: &Path) -> Result<()> {
        let params = tensors(&self.shape);
        for param in &params {
            let Some(&file) = self.home.get(&param.name) else {
                return Err(CheckpointError::tensor(list, &param.name, "is missing"));
            };
            let (path, place) = (&self.files[file].path, &self.files[file].places[&param.name]);
            if place.dims != param.dims() {
                let text = format!("is {:?}, config.json makes it {:?}", place.dims, param.dims());
                return Err(CheckpointError::tensor(path, &param.name, text));
            }
            if place.width.is_none() {
                return Err(CheckpointError::tensor(path, &param.name, wrong_type(&place.dtype)));
            }
        }
        let known = |name: &str| {
            params.iter().any(|param| param.name == name)
                // Derived from rope_theta; old files carry it.
                || name.ends_with("rotary_emb.inv_freq")
                // A tied model's second copy.
                || (self.shape.tied && name == HEAD)
        };
        let mut unknown: Vec<&String> = self.home.keys().filter(|name| !known(name)).collect();
        unknown.sort();
        match unknown.first() {
            Some(name) => Err(CheckpointError::tensor(list, name, "is not of the model in config.json")),
            None => Ok(()),
        }
    }
}

/// Whether the files hold a head that differs from the embedding, although config.json ties them. transformers (from 5 on)
/// then takes the model as untied, and so does this program.
fn own_head(files: &[TensorFile], home: &HashMap<String, usize>) -> Result<bool> {
    let (Some(embedding), Some(head)) = (home.get(EMBEDDING), home.get(HEAD)) else { return Ok(false) };
    let (embedding, head) = (&files[*embedding], &files[*head]);
    let dims = &head.places[HEAD].dims;
    let mut differs = *dims != embedding.places[EMBEDDING].dims;
    let len: usize = dims.iter().product();
    let mut buffers = [vec![0.0; BUFFER.min(len)], vec![0.0; BUFFER.min(len)]];
    for start in (0..len).step_by(BUFFER) {
        if differs {
            break;
        }
        let [one, other] = buffers.each_mut().map(|buffer| &mut buffer[..BUFFER.min(len - start)]);
        embedding.read(EMBEDDING, start, one)?;
        head.read(HEAD, start, other)?;
        differs = one != other;
    }
    if differs {
        let path = head.path.display();
        log::info!(
            "{path}: tie_word_embeddings is set, but {HEAD} differs from {EMBEDDING}: taken as a model of its own head"
        );
    }
    Ok(differs)
}

fn open_sharded(
    folder: &Path,
    index: &Path,
    files: &mut Vec<TensorFile>,
    home: &mut HashMap<String, usize>,
) -> Result<()> {
    let text = fs::read_to_string(index).map_err(CheckpointError::read(index))?;
    let parsed: Index = serde_json::from_str(&text)
        .map_err(|error| CheckpointError::damaged(index, format!("is no index of tensors: {error}")))?;
    let mut opened: BTreeMap<String, usize> = BTreeMap::new();
    for (tensor, name) in parsed.weight_map {
        if Path::new(&name).file_name().is_none_or(|last| last != name.as_str()) {
            let text = format!("= \"{name}\"; expected the name of a file in the same folder");
            return Err(CheckpointError::setting(index, &format!("weight_map.{tensor}"), text));
        }
        let at = match opened.get(&name) {
            Some(&at) => at,
            None => {
                files.push(TensorFile::open(&folder.join(&name))?);
                opened.insert(name, files.len() - 1);
                files.len() - 1
            }
        };
        if !files[at].places.contains_key(&tensor) {
            return Err(CheckpointError::tensor(
                &files[at].path,
                &tensor,
                format!("is missing; {} promises it", index.display()),
            ));
        }
        home.insert(tensor, at);
    }
    Ok(())
}

impl Source for HfFolder {
    fn path(&self) -> &Path {
        &self.path
    }

    fn shape(&self) -> &ModelShape {
        &self.shape
    }

    fn positions(&self) -> Option<usize> {
        self.positions
    }

    fn read(&self, name: &str, start: usize, out: &mut [f32]) -> Result<()> {
        match self.home.get(name) {
            Some(&file) => self.files[file].read(name, start, out),
            None => Err(CheckpointError::tensor(&self.path, name, "is missing")),
        }
    }

    fn check(&self, part: usize, parts: usize) -> Result<()> {
        let mut mine = tensors(&self.shape).into_iter().enumerate().filter(|(index, _)| index % parts == part);
        mine.try_for_each(|(_, param)| self.files[self.home[&param.name]].check(&param.name))
    }
}
