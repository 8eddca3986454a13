//! Initial weights: a function of (seed, parameter name, element) only, so that every system at every world size
//! starts from the same model.

use super::{Init, Param};

/// SplitMix64's finaliser: a good 64-bit mix.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Writes a parameter's initial values. Element i depends on (seed, name, i) alone.
///
/// # Panics
/// If `out` is not the parameter's length.
pub fn init(seed: u64, param: &Param, out: &mut [f32]) {
    assert_eq!(out.len(), param.len(), "{}", param.name);
    let Init::Normal(std) = param.init else {
        out.fill(1.0);
        return;
    };
    // FNV-1a over the name keys the stream.
    let name =
        param.name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let key = mix(mix(seed) ^ name);
    let uniform = |bits: u64| ((bits >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    // Box-Muller gives two normals a pair of uniforms.
    for (pair, chunk) in out.chunks_mut(2).enumerate() {
        let counter = key.wrapping_add((pair as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let radius = (-2.0 * uniform(mix(counter)).ln()).sqrt();
        let angle = std::f64::consts::TAU * uniform(mix(counter ^ 0x5851_f42d_4c95_7f2d));
        chunk[0] = (std * radius * angle.cos()) as f32;
        if let Some(second) = chunk.get_mut(1) {
            *second = (std * radius * angle.sin()) as f32;
        }
    }
}
