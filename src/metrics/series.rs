//! The series file `metrics.h5`: one 1-D dataset a metric, readable by any HDF5 tool at any time.

use std::fs;
use std::path::Path;

use hdf5::{File, Location};

use crate::checkpoint::hdf::{options, read_text, set_text, set_u64, words};

use super::{Cores, History, Kind, MetricsError, Part, Record, Row, Validation, Value};

/// Value of the attribute `format`; another one is refused.
const FORMAT: &str = "tawpipe metrics 1";

/// Writes the file under a temporary name and renames it: whoever opens `path` sees a whole file, before or after.
pub(super) fn write(path: &Path, history: &History) -> Result<(), MetricsError> {
    let new = path.with_extension("h5.tmp");
    // Removed first: HDF5 keeps a file open that it could not close on a full disk, and would refuse to reuse it.
    let _ = fs::remove_file(&new);
    build(&new, history).map_err(|error| MetricsError::Io {
        path: path.display().to_string(),
        action: "write",
        reason: words(&error),
    })?;
    fs::rename(&new, path).map_err(MetricsError::io(path, "write"))
}

fn build(path: &Path, history: &History) -> hdf5::Result<()> {
    let file = options().create(path)?;
    set_text(&file, "format", FORMAT)?;
    set_text(&file, "version", env!("CARGO_PKG_VERSION"))?;
    if let Some(last) = history.parts.last() {
        describe(&file, last)?;
    }
    let parts = file.create_group("parts")?;
    for part in &history.parts {
        let group = parts.create_group(&part.part.to_string())?;
        set_u64(&group, "step", part.step)?;
        set_text(&group, "started", &part.started)?;
        set_text(&group, "version", &part.version)?;
        if let Some(library) = &part.library {
            set_text(&group, "library", library)?;
        }
        if let Some(Cores { threads, cores }) = part.cores {
            set_u64(&group, "threads", threads as u64)?;
            set_u64(&group, "cores", cores as u64)?;
        }
        describe(&group, part)?;
    }
    columns(&file, &history.steps)?;
    columns(&file, &history.validations)?;
    file.close()
}

/// What ran a part: of the file itself, the last part's.
fn describe(place: &Location, part: &Part) -> hdf5::Result<()> {
    set_text(place, "deck", &part.deck)?;
    set_text(place, "system", &part.system)?;
    set_u64(place, "ranks", part.ranks as u64)?;
    let groups: Vec<u64> = part.groups.iter().map(|&size| size as u64).collect();
    place.new_attr_builder().with_data(&groups).create("groups").map(|_| ())
}

/// One contiguous dataset a metric, with its unit and meaning.
fn columns<R: Row>(file: &File, rows: &[R]) -> hdf5::Result<()> {
    let group = file.create_group(R::GROUP)?;
    let values: Vec<Vec<Value>> = rows.iter().map(Row::values).collect();
    for (at, metric) in R::METRICS.iter().enumerate() {
        let column = values.iter().map(|row| row[at]);
        let dataset = match metric.kind {
            Kind::U64 | Kind::Bool => {
                let column: Vec<u64> =
                    column.map(|value| if let Value::U64(n) = value { n } else { value.real() as u64 }).collect();
                group.new_dataset_builder().with_data(&column).create(metric.name)?
            }
            Kind::F64 => {
                let column: Vec<f64> = column.map(Value::real).collect();
                group.new_dataset_builder().with_data(&column).create(metric.name)?
            }
        };
        set_text(&dataset, "unit", metric.unit)?;
        set_text(&dataset, "description", metric.doc)?;
    }
    Ok(())
}

/// Reads a series file. A file of version 0.1 knows only its last part, as one that began with the run.
pub(super) fn read(path: &Path) -> Result<History, MetricsError> {
    fs::File::open(path).map_err(MetricsError::io(path, "read"))?;
    let damaged = |error: hdf5::Error| MetricsError::damaged(path, format!("is no sound HDF5 file: {}", words(&error)));
    let file = options().open(path).map_err(damaged)?;
    match read_text(&file, "format") {
        Ok(format) if format == FORMAT => {}
        Ok(other) => return Err(MetricsError::damaged(path, format!("has format '{other}', expected '{FORMAT}'"))),
        Err(_) => return Err(MetricsError::damaged(path, "is an HDF5 file but no tawpipe metrics")),
    }
    let parts = parts(&file).map_err(damaged)?;
    let steps: Vec<Record> = rows(&file).map_err(damaged)?;
    let validations: Vec<Validation> = rows(&file).map_err(damaged)?;
    Ok(History { steps, validations, parts })
}

fn parts(file: &File) -> hdf5::Result<Vec<Part>> {
    if !file.link_exists("parts") {
        return Ok(vec![part(file, 1, 0, String::new())?]);
    }
    let group = file.group("parts")?;
    let mut numbers: Vec<u64> = group.member_names()?.iter().filter_map(|name| name.parse().ok()).collect();
    numbers.sort_unstable();
    let read = |number: u64| {
        let group = group.group(&number.to_string())?;
        part(&group, number, group.attr("step")?.read_scalar()?, read_text(&group, "started")?)
    };
    numbers.into_iter().map(read).collect()
}

fn part(place: &Location, part: u64, step: u64, started: String) -> hdf5::Result<Part> {
    let groups: Vec<u64> = place.attr("groups")?.read_raw()?;
    let number = |name: &str| place.attr(name).and_then(|attr| attr.read_scalar::<u64>()).ok();
    let cores = number("threads").zip(number("cores"));
    Ok(Part {
        part,
        step,
        started,
        version: read_text(place, "version")?,
        system: read_text(place, "system")?,
        ranks: groups.iter().sum::<u64>() as usize,
        groups: groups.into_iter().map(|size| size as usize).collect(),
        library: read_text(place, "library").ok(),
        cores: cores.map(|(threads, cores)| Cores { threads: threads as usize, cores: cores as usize }),
        deck: read_text(place, "deck")?,
    })
}

fn rows<R: Row>(file: &File) -> hdf5::Result<Vec<R>> {
    let group = file.group(R::GROUP)?;
    let columns = R::METRICS.iter().map(|metric| {
        // Version 0.1 had no metric of this kind.
        if metric.kind == Kind::Bool && !group.link_exists(metric.name) {
            return Ok(vec![Value::Bool(false); group.dataset("step")?.size()]);
        }
        let dataset = group.dataset(metric.name)?;
        Ok(match metric.kind {
            Kind::U64 => dataset.read_raw::<u64>()?.into_iter().map(Value::U64).collect(),
            Kind::F64 => dataset.read_raw::<f64>()?.into_iter().map(Value::F64).collect(),
            Kind::Bool => dataset.read_raw::<u64>()?.into_iter().map(|n| Value::Bool(n != 0)).collect(),
        })
    });
    let columns: Vec<Vec<Value>> = columns.collect::<hdf5::Result<_>>()?;
    let len = columns.iter().map(Vec::len).min().unwrap_or(0);
    Ok((0..len).map(|i| R::from_values(&columns.iter().map(|column| column[i]).collect::<Vec<_>>())).collect())
}
