//! The run's numbers once more for TensorBoard, on request: an event file in the run folder.
//!
//! The file is a sequence of records in the framing of TFRecord: length (8 bytes), its masked CRC-32C (4), data, its masked
//! CRC-32C (4), all little-endian; see <https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details>. The
//! data are protobuf messages `Event` (tensorflow/core/util/event.proto), of which only a few fields are needed: they are
//! encoded here, because the crates that write them are no longer kept.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{MetricsError, Record, Validation};

/// How names of event files begin; TensorBoard reads the files of a folder in the order of their names.
const PREFIX: &str = "events.out.tfevents.";

/// An open event file.
#[derive(Debug)]
pub(super) struct Events {
    path: PathBuf,
    file: File,
}

impl Events {
    /// Starts a new file in a run folder. Steps after `step` that earlier files hold are not shown any more: they are about to
    /// be taken again.
    pub fn start(folder: &Path, step: u64) -> Result<Self, MetricsError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        // Later than every other one, also where two start within a second or the clock has been set back.
        let newest = times(folder).into_iter().max();
        let time = newest.map_or(now, |newest| now.max(newest + 1));
        let path = folder.join(format!("{PREFIX}{time:010}.tawpipe"));
        let file =
            File::options().append(true).create_new(true).open(&path).map_err(MetricsError::io(&path, "write"))?;
        let mut events = Events { path, file };
        events.event(0, |event| event.text(3, "brain.Event:2"))?;
        if step > 0 {
            // SessionLog with status START: TensorBoard then forgets what has this step or a later one.
            events.event(step + 1, |event| event.message(7, |log| log.number(1, 1)))?;
        }
        Ok(events)
    }

    /// A training step.
    pub fn step(&mut self, record: &Record) -> Result<(), MetricsError> {
        let Record { loss, grad_norm, lr, tokens_per_s, mfu, exposed_s, .. } = *record;
        let mut values = vec![
            ("train/loss", loss),
            ("train/grad_norm", grad_norm),
            ("train/learning_rate", lr),
            ("train/tokens_per_s", tokens_per_s),
            ("train/exposed_s", exposed_s),
        ];
        // Not known for every GPU.
        values.extend(mfu.is_finite().then_some(("train/mfu", mfu)));
        self.scalars(record.step, &values)
    }

    /// A validation.
    pub fn validation(&mut self, validation: &Validation) -> Result<(), MetricsError> {
        let bits = validation.bits_per_byte;
        let mut values = vec![("valid/loss", validation.valid_loss)];
        values.extend(bits.is_finite().then_some(("valid/bits_per_byte", bits)));
        self.scalars(validation.step, &values)
    }

    fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> Result<(), MetricsError> {
        self.event(step, |event| {
            event.message(5, |summary| {
                for (tag, value) in values {
                    summary.message(1, |entry| {
                        entry.text(1, tag);
                        entry.float(2, *value as f32);
                    });
                }
            });
        })
    }

    /// Appends an event. It has left this process when this returns, so that a kill cannot lose it.
    fn event(&mut self, step: u64, what: impl FnOnce(&mut Message)) -> Result<(), MetricsError> {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
        let mut event = Message::default();
        event.double(1, time);
        event.number(2, step);
        what(&mut event);
        self.file.write_all(&frame(&event.0)).map_err(MetricsError::io(&self.path, "write"))
    }
}

/// Times in the names of the event files of a folder.
fn times(folder: &Path) -> Vec<u64> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let time = |name: &str| name.strip_prefix(PREFIX)?.split('.').next()?.parse().ok();
    entries.filter_map(|entry| time(entry.file_name().to_str()?)).collect()
}

/// A record of these data.
fn frame(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = length.to_vec();
    record.extend(masked(&length).to_le_bytes());
    record.extend(data);
    record.extend(masked(data).to_le_bytes());
    record
}

/// The checksum of the framing: CRC-32C, turned and shifted, so that checksums of data with checksums in them stay good.
fn masked(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// A protobuf message under construction.
#[derive(Debug, Default)]
struct Message(Vec<u8>);

impl Message {
    /// Seven bits a byte, the lowest first; the highest bit says that more follow.
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// Number and wire type of the field that follows.
    fn key(&mut self, field: u64, wire: u64) {
        self.varint(field << 3 | wire);
    }

    fn number(&mut self, field: u64, value: u64) {
        self.key(field, 0);
        self.varint(value);
    }

    fn double(&mut self, field: u64, value: f64) {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
    }

    fn float(&mut self, field: u64, value: f32) {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.key(field, 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
    }

    fn text(&mut self, field: u64, value: &str) {
        self.bytes(field, value.as_bytes());
    }

    fn message(&mut self, field: u64, fill: impl FnOnce(&mut Message)) {
        let mut inner = Message::default();
        fill(&mut inner);
        self.bytes(field, &inner.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The checksum's published test value, and numbers as protobuf's documentation encodes them.
    #[test]
    fn checksums_and_numbers_as_published() {
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        let mut message = Message::default();
        message.number(1, 150);
        message.text(2, "testing");
        assert_eq!(message.0, [0x08, 0x96, 0x01, 0x12, 0x07, 0x74, 0x65, 0x73, 0x74, 0x69, 0x6e, 0x67]);
    }
}
