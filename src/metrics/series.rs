//! The series file `metrics.h5`: one 1-D dataset a metric, readable by any HDF5 tool at any time.

use std::fs;
use std::path::Path;

use hdf5::File;

use crate::checkpoint::hdf::{options, read_text, set_text, set_u64, words};

use super::{History, Kind, MetricsError, Record, Row, RunInfo, Validation, Value};

/// Value of the attribute `format`; another one is refused.
const FORMAT: &str = "tawpipe metrics 1";

/// Writes the file under a temporary name and renames it: whoever opens `path` sees a whole file, before or after.
pub(super) fn write(path: &Path, info: &RunInfo, history: &History) -> Result<(), MetricsError> {
    let new = path.with_extension("h5.tmp");
    // Removed first: HDF5 keeps a file open that it could not close on a full disk, and would refuse to reuse it.
    let _ = fs::remove_file(&new);
    build(&new, info, history).map_err(|error| MetricsError::Io {
        path: path.display().to_string(),
        action: "write",
        reason: words(&error),
    })?;
    fs::rename(&new, path).map_err(MetricsError::io(path, "write"))
}

fn build(path: &Path, info: &RunInfo, history: &History) -> hdf5::Result<()> {
    let file = options().create(path)?;
    set_text(&file, "format", FORMAT)?;
    set_text(&file, "version", env!("CARGO_PKG_VERSION"))?;
    set_text(&file, "deck", &info.deck)?;
    set_text(&file, "system", &info.system)?;
    set_u64(&file, "ranks", info.groups.iter().sum::<usize>() as u64)?;
    let groups: Vec<u64> = info.groups.iter().map(|&size| size as u64).collect();
    file.new_attr_builder().with_data(&groups).create("groups")?;
    columns(&file, &history.steps)?;
    columns(&file, &history.validations)?;
    file.close()
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

/// Reads a series file.
pub(super) fn read(path: &Path) -> Result<(RunInfo, History), MetricsError> {
    fs::File::open(path).map_err(MetricsError::io(path, "read"))?;
    let damaged = |error: hdf5::Error| MetricsError::damaged(path, format!("is no sound HDF5 file: {}", words(&error)));
    let file = options().open(path).map_err(damaged)?;
    match read_text(&file, "format") {
        Ok(format) if format == FORMAT => {}
        Ok(other) => return Err(MetricsError::damaged(path, format!("has format '{other}', expected '{FORMAT}'"))),
        Err(_) => return Err(MetricsError::damaged(path, "is an HDF5 file but no tawpipe metrics")),
    }
    let info = || -> hdf5::Result<RunInfo> {
        let groups: Vec<u64> = file.attr("groups")?.read_raw()?;
        Ok(RunInfo {
            deck: read_text(&file, "deck")?,
            system: read_text(&file, "system")?,
            groups: groups.into_iter().map(|size| size as usize).collect(),
        })
    };
    let info = info().map_err(damaged)?;
    let steps: Vec<Record> = rows(&file).map_err(damaged)?;
    let validations: Vec<Validation> = rows(&file).map_err(damaged)?;
    Ok((info, History { steps, validations }))
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
