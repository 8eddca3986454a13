//! The angles of rotary embedding.

use crate::device::{Device, DeviceError, Memory};
use crate::model::{Dtype, ModelShape};
use crate::plan::{Segment, Slot};

/// Cosines, then sines, of a head's `head_dim / 2` angles at every position: `[seq, head_dim]` in f32. Angles are taken
/// in f64, so that long sequences keep them exact.
pub fn table(device: &impl Device, shape: &ModelShape, seq: usize) -> Result<Memory, DeviceError> {
    let hd = shape.head_dim;
    let slot = Slot {
        name: "rotary table".into(),
        elems: seq * hd,
        dtype: Dtype::F32,
        segment: Segment::Workspace,
        holds: None,
    };
    let mut table = vec![0.0f32; slot.elems];
    for (position, row) in table.chunks_exact_mut(hd).enumerate() {
        let (cos, sin) = row.split_at_mut(hd / 2);
        for (i, (cos, sin)) in cos.iter_mut().zip(sin).enumerate() {
            let frequency = shape.rope_theta.powf(-2.0 * i as f64 / hd as f64);
            let angle = position as f64 * frequency;
            (*cos, *sin) = (angle.cos() as f32, angle.sin() as f32);
        }
    }
    let memory = device.memory(&[slot])?;
    memory.upload(memory.slot(0), &table)?;
    Ok(memory)
}
