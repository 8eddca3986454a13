//! The compiled kernels: where they are found, and the functions in them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cudarc::driver::sys::{self, CUfunction_attribute, CUresult};

use super::attention::flash_kernels;
use super::driver::{Context, check};
use super::launch::name;
use crate::device::DeviceError;
use crate::model::Dtype;

/// Names a folder of fatbins that is used before any other.
pub const FOLDER: &str = "TAWPIPE_KERNELS";

/// Folders beside the program, in which kernels are looked for: as installed, and as `make kernels` leaves them.
const BESIDE: [&str; 3] = ["kernels", "../kernels/fatbins", "../lib/tawpipe/kernels"];

/// Fatbins compiled into this program by build.rs, if there were any: name and bytes.
const EMBEDDED: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/fatbins.rs"));

/// A compiled file of kernels.
struct Fatbin {
    name: String,
    bytes: Cow<'static, [u8]>,
}

/// Every kernel by its name in `kernels/*.cu`.
pub fn names() -> Vec<String> {
    const PLAIN: [&str; 8] = [
        "adamw",
        "attention_flash_round",
        "clear",
        "cross_entropy",
        "cross_entropy_sum",
        "rmsnorm_weight_sum",
        "squares_parts",
        "squares_sum",
    ];
    const TYPED: [&str; 15] = [
        "adamw_home",
        "attention_delta",
        "attention_simple",
        "attention_simple_key",
        "attention_simple_query",
        "cross_entropy_gradient",
        "embed",
        "embed_backward",
        "rmsnorm",
        "rmsnorm_add",
        "rmsnorm_backward",
        "rmsnorm_weight_parts",
        "rope",
        "swiglu",
        "swiglu_backward",
    ];
    let types = [Dtype::F32, Dtype::Bf16].map(name);
    let typed = TYPED.iter().flat_map(|kernel| types.map(|t| format!("{kernel}_{t}")));
    let pairs = types.into_iter().flat_map(|from| types.map(|to| (from, to)));
    let flat = pairs.flat_map(|(from, to)| ["cast", "accumulate"].map(|kernel| format!("{kernel}_{from}_{to}")));
    let flash = flash_kernels().map(|(kernel, _)| kernel);
    PLAIN.iter().map(|kernel| kernel.to_string()).chain(typed).chain(flat).chain(flash).collect()
}

/// Reads the fatbins of a folder; none if there is no such folder.
fn read(folder: &Path) -> Result<Vec<Fatbin>, DeviceError> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(Vec::new()) };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "fatbin"));
    paths.sort();
    let fatbin = |path: PathBuf| {
        let bytes = std::fs::read(&path).map_err(|e| DeviceError::Kernels(format!("{}: {e}", path.display())))?;
        Ok(Fatbin { name: path.display().to_string(), bytes: bytes.into() })
    };
    paths.into_iter().map(fatbin).collect()
}

/// The fatbins, from the first place that has some, and that place in words.
fn find() -> Result<(Vec<Fatbin>, String), DeviceError> {
    if let Some(folder) = std::env::var_os(FOLDER) {
        let found = read(Path::new(&folder))?;
        let place = format!("{FOLDER}={}", Path::new(&folder).display());
        let none = || DeviceError::Kernels(format!("{place} holds no *.fatbin; `make kernels` compiles them"));
        return if found.is_empty() { Err(none()) } else { Ok((found, place)) };
    }
    if !EMBEDDED.is_empty() {
        let fatbin = |(name, bytes): &(&str, &'static [u8])| Fatbin { name: name.to_string(), bytes: (*bytes).into() };
        return Ok((EMBEDDED.iter().map(fatbin).collect(), "this program".into()));
    }
    let program = std::env::current_exe().unwrap_or_default();
    let beside = program.parent().unwrap_or(Path::new("."));
    for folder in BESIDE.map(|folder| beside.join(folder)) {
        let found = read(&folder)?;
        if !found.is_empty() {
            return Ok((found, folder.display().to_string()));
        }
    }
    Err(DeviceError::Kernels(format!(
        "this program was built without the GPU's kernels; `make kernels` compiles them (nvcc), then build again, put the \
         *.fatbin into {}, or set {FOLDER} to their folder",
        beside.join(BESIDE[0]).display()
    )))
}

/// Where the kernels are, in words; none is loaded.
///
/// # Errors
/// If there are none.
pub fn place() -> Result<String, DeviceError> {
    find().map(|(_, place)| place)
}

/// A loaded module.
#[derive(Debug)]
struct Module {
    context: Arc<Context>,
    raw: sys::CUmodule,
}

impl Drop for Module {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: loaded once; no kernel of it runs any more.
            unsafe { sys::cuModuleUnload(self.raw) };
        }
    }
}

/// All kernels, ready to be launched.
#[derive(Debug)]
pub(super) struct Kernels {
    functions: HashMap<String, sys::CUfunction>,
    /// Keeps the functions alive.
    _modules: Vec<Module>,
    /// Where they were found.
    pub place: String,
}

// SAFETY: handles of the driver, which may be used from any thread.
unsafe impl Send for Kernels {}
// SAFETY: as above.
unsafe impl Sync for Kernels {}

impl Kernels {
    /// Loads all kernels now: a kernel that were loaded at its first launch could wait for others that wait for it.
    ///
    /// # Errors
    /// If there are no kernels, one is missing, or none of them fit the GPU and its driver.
    pub fn load(context: &Arc<Context>) -> Result<Self, DeviceError> {
        let (fatbins, place) = find()?;
        context.enter()?;
        let (major, minor) = context.properties().capability;
        let mut modules = Vec::new();
        for fatbin in fatbins {
            // The driver may read the image as a text that ends with a zero.
            let image: Vec<u8> = fatbin.bytes.iter().copied().chain([0]).collect();
            let mut raw = std::ptr::null_mut();
            // SAFETY: a whole image, which the driver copies.
            let result = unsafe { sys::cuModuleLoadData(&mut raw, image.as_ptr().cast()) };
            check("cuModuleLoadData", result).map_err(|error| {
                let (cuda, needs) = (context.properties().driver, "R580 or newer for kernels compiled by CUDA 13");
                DeviceError::Kernels(format!(
                    "{}: {error}; GPU sm_{major}{minor}, driver for CUDA {}.{} ({needs}; `make kernels NVCC=` takes 12.x)",
                    fatbin.name, cuda.0, cuda.1
                ))
            })?;
            modules.push(Module { context: context.clone(), raw });
        }
        let functions = names().into_iter().map(|kernel| {
            let function = function(&modules, &kernel)?;
            let missing = || DeviceError::Kernels(format!("{place}: no kernel {kernel}: compiled from other sources?"));
            function.map(|function| (kernel.clone(), function)).ok_or_else(missing)
        });
        let functions: HashMap<_, _> = functions.collect::<Result<_, _>>()?;
        for (kernel, shared) in flash_kernels().filter(|(_, shared)| *shared <= context.properties().shared) {
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: a function of a loaded module.
            let result = unsafe { sys::cuFuncSetAttribute(functions[&kernel], attribute, shared as i32) };
            check("cuFuncSetAttribute", result)?;
        }
        Ok(Kernels { functions, _modules: modules, place })
    }

    /// A kernel's function.
    ///
    /// # Panics
    /// If there is no such kernel: [`names`] lacks it.
    pub fn get(&self, kernel: &str) -> sys::CUfunction {
        *self.functions.get(kernel).unwrap_or_else(|| panic!("no kernel {kernel}"))
    }
}

/// A function of the first module that has it.
fn function(modules: &[Module], kernel: &str) -> Result<Option<sys::CUfunction>, DeviceError> {
    let text = CString::new(kernel).expect("names of kernels hold no zero");
    for module in modules {
        let mut raw = std::ptr::null_mut();
        // SAFETY: a loaded module and a text.
        match unsafe { sys::cuModuleGetFunction(&mut raw, module.raw, text.as_ptr()) } {
            CUresult::CUDA_ERROR_NOT_FOUND => {}
            other => return check("cuModuleGetFunction", other).map(|()| Some(raw)),
        }
    }
    Ok(None)
}
