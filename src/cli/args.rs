//! What can be typed.

use std::path::{Path, PathBuf};

use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};

use crate::checkpoint::hf::Width;
use crate::cluster::MOST_RANKS;
use crate::data::TokenType;
use crate::deck::DeviceKind;
use crate::exit::Exit;
use crate::model::MOST_DIM;
use crate::paths::expand;
use crate::plan::MOST_SEQ;
use crate::results::Place;

/// Trains LLaMA-style models with TawPipe, topology-aware weight pipeline parallelism, and the systems it is compared with.
#[derive(Debug, Parser)]
#[command(version, about, after_help = exit_codes(), max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Train; start it with mpirun or srun for several ranks
    Train(TrainArgs),
    /// Check a deck's plan, and predict memory, bytes and time; needs neither MPI nor data
    Plan(PlanArgs),
    /// Measure this machine for the simulator; start it with mpirun for several ranks
    Calibrate(CalibrateArgs),
    /// The same as `calibrate`, which it was called before
    Bench(BenchArgs),
    /// Examine this machine and this launch: MPI, cores, memory, libraries, GPUs, Slurm, folders; also under mpirun or srun
    #[command(after_help = VERDICTS)]
    Doctor(DoctorArgs),
    /// Measure or simulate what is missing of a matrix of runs, described in a file of inputs/experiments/
    Experiment(ExperimentArgs),
    /// Compare runs, or turn the results of experiments into tables and figures
    Report(ReportArgs),
    /// Continue a text with a trained model
    Generate(GenerateArgs),
    /// Say what is in a checkpoint, metrics file, run folder, Hugging Face folder, token file, deck, cluster, experiment
    /// or result
    Inspect {
        /// The file or folder
        #[arg(value_parser = path())]
        file: PathBuf,
    },
    /// Write a model as a Hugging Face folder, for transformers' LlamaForCausalLM
    Export(ExportArgs),
    /// Write a model as a checkpoint, with an optimizer that has seen nothing
    Import(ImportArgs),
    /// Write the token ids of a text to a file
    Tokenize(TokenizeArgs),
    /// Write man pages and completions below a folder, for `make install`
    #[command(name = "__manual", hide = true)]
    Manual {
        /// The folder `share` of an installation
        share: PathBuf,
    },
}

/// A deck and changes to it.
#[derive(Debug, Args)]
pub(super) struct DeckArgs {
    /// The deck, a TOML file; all keys stand in docs/deck.md
    #[arg(value_name = "DECK", value_parser = path())]
    pub file: PathBuf,
    /// Replace a key of the deck; the value is TOML, or else a string
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub sets: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct TrainArgs {
    #[command(flatten)]
    pub deck: DeckArgs,
    /// Continue from the newest good checkpoint in run.folder; start if it holds none
    #[arg(long)]
    pub resume: bool,
    /// Print one JSON object a step on standard output
    #[arg(long)]
    pub json: bool,
    /// Check deck, data and plan on all ranks, and stop before anything is written
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub(super) struct GenerateArgs {
    /// A run folder, a checkpoint, or a Hugging Face folder
    #[arg(value_name = "RUN", value_parser = path())]
    pub model: PathBuf,
    /// Text to continue
    #[arg(long, default_value = "In the beginning ")]
    pub prompt: String,
    /// Tokens to write
    #[arg(long, default_value_t = 200, value_parser = most(1 << 24))]
    pub tokens: usize,
    /// 0 takes the likeliest token each time, 1 draws from the model's distribution
    #[arg(long, default_value_t = 0.8, value_parser = temperature)]
    pub temperature: f32,
    /// Decides what is drawn
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// A tokenizer.json, or `bytes`; left out, the run's own
    #[arg(long, value_parser = path())]
    pub tokenizer: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    pub deck: DeckArgs,
    /// A config.json of Hugging Face, or a folder with one, in place of the deck's model; nothing else of it is read
    #[arg(long, value_name = "FILE")]
    pub model: Option<PathBuf>,
    /// A machine to predict times for, such as inputs/clusters/laptop.toml; left out, blocks take unit time
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub cluster: Option<PathBuf>,
    /// Number of ranks; left out, all of the cluster, or what --groups or cluster.ranks_per_group say, else 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MOST_RANKS as i64))]
    pub ranks: Option<u32>,
    /// Sizes of the groups, such as 2,2; replaces the cluster's and cluster.ranks_per_group
    #[arg(long, value_name = "SIZES", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=MOST_RANKS as i64))]
    pub groups: Vec<u32>,
    /// Compare all systems in one table; those the deck does not name have their default options
    #[arg(long, conflicts_with = "recommend")]
    pub all: bool,
    /// Search for the fastest system and options that fit, and say why
    #[arg(long, requires = "cluster")]
    pub recommend: bool,
    /// Draw the predicted timeline
    #[arg(long, value_name = "OUT.svg", value_parser = path())]
    pub draw: Option<PathBuf>,
    /// Draw a row for every communication lane
    #[arg(long)]
    pub lanes: bool,
    /// Write the predicted timeline as a trace for ui.perfetto.dev
    #[arg(long, value_name = "OUT.json", value_parser = path())]
    pub trace: Option<PathBuf>,
    /// Print all numbers as one JSON value
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ExperimentArgs {
    /// The experiment, a TOML file; docs/experiments.md explains it
    #[arg(value_name = "FILE", value_parser = path())]
    pub file: PathBuf,
    /// Only cells whose name has this in it; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub only: Vec<String>,
    /// The folder of result files; left out, results/FILE
    #[arg(long, value_name = "DIR", value_parser = path())]
    pub results: Option<PathBuf>,
    /// Say what there is to run, and run nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Run cells again that have failed
    #[arg(long)]
    pub retry_failed: bool,
    /// Start no run after so many minutes (exit code 4)
    #[arg(long, value_name = "MINUTES", value_parser = minutes)]
    pub limit: Option<f64>,
    /// Where to run, instead of what the file says
    #[arg(long, value_name = "PLACE", value_enum)]
    pub on: Option<Place>,
    /// The Python that has PyTorch, for cells that compare with it; else TAWPIPE_TORCH; without it they are left out
    #[arg(long, value_name = "PYTHON")]
    pub torch: Option<String>,
    /// Leave out predictions, and the calibration that they need
    #[arg(long)]
    pub no_predictions: bool,
}

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// Run folders, or folders that hold run folders: compared in a table, each with its loss curve drawn into it; or
    /// folders of results, each of which gets a README.md with tables and figures. One that cannot be used is named and
    /// passed over, and the exit code is 1 then
    #[arg(required = true, value_name = "FOLDER", value_parser = path())]
    pub folders: Vec<PathBuf>,
    /// Write all numbers of all runs as a table, one row a step, with the run's name in front
    #[arg(long, value_name = "OUT.csv")]
    pub csv: Option<PathBuf>,
    /// Where README.md and figures of results go; left out, into their own folder
    #[arg(long, value_name = "FOLDER", value_parser = path())]
    pub out: Option<PathBuf>,
    /// A series that others are compared with; left out, PyTorch's FSDP and DDP, or fsdp and 1f1b
    #[arg(long, value_name = "SERIES")]
    pub reference: Vec<String>,
    /// Results of the paper's cases elsewhere, such as docs/results/paper-simulated, for the table of its ratios
    #[arg(long, value_name = "FOLDER", value_parser = path())]
    pub beside: Option<PathBuf>,
    /// Write figures of results as PNG too
    #[arg(long)]
    pub png: bool,
}

#[derive(Debug, Args)]
pub(super) struct CalibrateArgs {
    /// The cluster description to write
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    #[command(flatten)]
    pub measure: MeasureArgs,
}

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// The cluster description to write
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub calibrate: PathBuf,
    #[command(flatten)]
    pub measure: MeasureArgs,
}

/// What is measured.
#[derive(Debug, Args)]
pub(super) struct MeasureArgs {
    /// Sizes of the groups of ranks, such as 2,2; left out, as the ranks are found
    #[arg(long, value_name = "SIZES", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=MOST_RANKS as i64))]
    pub groups: Vec<u32>,
    /// Widths of the models that are measured, multiples of 64; left out, some that the device trains well
    #[arg(long, value_name = "DIMS", value_delimiter = ',', value_parser = width_of_model)]
    pub widths: Vec<usize>,
    /// Tokens of a sequence; left out, 256 on a processor and 2048 on a GPU
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..=MOST_SEQ as i64))]
    pub seq: Option<u32>,
    /// What is measured, as run.device in a deck
    #[arg(long, default_value = "auto", value_enum)]
    pub device: DeviceKind,
}

/// What the words of `doctor` mean.
const VERDICTS: &str = "Verdicts: fine; missing, training goes on without it; attention, training works but worse than it could; \
                        broken, training cannot work. The exit code is 2 if something is broken, else 0.";

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Print one JSON object instead of lines
    #[arg(long)]
    pub json: bool,
    /// Seconds that MPI may take to start
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0, value_parser = seconds)]
    pub wait: f64,
    /// Start MPI, print what it says, and nothing else
    #[arg(long, hide = true)]
    pub probe: bool,
}

#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// A run folder, or a checkpoint
    #[arg(value_parser = path())]
    pub model: PathBuf,
    /// The folder to write; must not exist or be empty
    #[arg(long, value_parser = path())]
    pub out: PathBuf,
    /// How weights are stored
    #[arg(long, default_value = "f32", value_enum)]
    pub dtype: Width,
}

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// A Hugging Face folder
    #[arg(value_parser = path())]
    pub model: PathBuf,
    /// The folder to write step_0.h5 to
    #[arg(long, value_parser = path())]
    pub out: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct TokenizeArgs {
    /// A text file in UTF-8
    #[arg(value_parser = path())]
    pub text: PathBuf,
    /// A Hugging Face tokenizer.json, or `bytes`
    #[arg(long, value_parser = path())]
    pub tokenizer: PathBuf,
    /// The token file to write
    #[arg(long, value_parser = path())]
    pub out: PathBuf,
    /// Type of an id in the file, little-endian
    #[arg(long, default_value = "u16", value_enum)]
    pub token_type: TokenType,
}

/// Paths, whose leading `~` a shell has not always replaced: bash does not in `--out=~/x`.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| match expand(&path, Path::new("")) {
        Ok(path) => Ok(path),
        Err(accepted) => Err(format!("it must be {accepted}")),
    })
}

/// A whole number from 0 on.
fn most(most: usize) -> impl TypedValueParser<Value = usize> {
    clap::value_parser!(u64).range(..=most as u64).map(|number| number as usize)
}

fn temperature(word: &str) -> Result<f32, String> {
    word.parse()
        .ok()
        .filter(|value| (0.0..=1e3).contains(value))
        .ok_or("accepted: numbers from 0 on, up to 1000".into())
}

fn minutes(word: &str) -> Result<f64, String> {
    word.parse().ok().filter(|value| (0.0..=1e7).contains(value)).ok_or("accepted: a number from 0 to 1e7".into())
}

fn seconds(word: &str) -> Result<f64, String> {
    let accepted = |seconds: &f64| *seconds > 0.0 && *seconds <= 86_400.0;
    word.parse().ok().filter(accepted).ok_or("accepted: a number above 0, at most 86400".into())
}

fn width_of_model(word: &str) -> Result<usize, String> {
    let fine = |dim: &usize| (64..=MOST_DIM).contains(dim) && dim.is_multiple_of(64);
    word.parse().ok().filter(fine).ok_or_else(|| format!("accepted: multiples of 64 up to {MOST_DIM}"))
}

/// The table of exit codes for `--help`.
fn exit_codes() -> String {
    let lines = Exit::ALL.map(|exit| format!("  {}  {}", exit.code(), exit.meaning()));
    format!("Exit codes:\n{}", lines.join("\n"))
}
