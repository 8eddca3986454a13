//! Initial weights: a function of (seed, parameter name, element) only, so that every system at every world size
//! starts from the same model.

use crate::random::{STEP, mix};

use super::{Init, Param};

/// Writes the initial values of a parameter's elements from number `start` on. Element i depends on (seed, name, i) alone, so
/// parts may be written in any order and at the same time.
///
/// # Panics
/// If the parameter has no such elements.
pub fn init(seed: u64, param: &Param, start: usize, out: &mut [f32]) {
    assert!(start + out.len() <= param.len(), "{}", param.name);
    let Init::Normal(std) = param.init else {
        out.fill(1.0);
        return;
    };
    // FNV-1a over the name keys the stream.
    let name =
        param.name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let key = mix(mix(seed) ^ name);
    let uniform = |bits: u64| ((bits >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    // Box-Muller gives two normals a pair of uniforms: elements 2 i and 2 i + 1.
    let pair = |number: usize| {
        let counter = key.wrapping_add((number as u64).wrapping_mul(STEP));
        let radius = (-2.0 * uniform(mix(counter)).ln()).sqrt();
        let angle = std::f64::consts::TAU * uniform(mix(counter ^ 0x5851_f42d_4c95_7f2d));
        [(std * radius * angle.cos()) as f32, (std * radius * angle.sin()) as f32]
    };
    let (odd, pairs) = out.split_at_mut((start % 2).min(out.len()));
    odd.iter_mut().for_each(|second| *second = pair(start / 2)[1]);
    for (number, values) in (start.div_ceil(2)..).zip(pairs.chunks_mut(2)) {
        values.copy_from_slice(&pair(number)[..values.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ModelShape, Unit, unit_params};

    fn shape() -> ModelShape {
        ModelShape {
            dim: 6,
            layers: 1,
            heads: 2,
            kv_heads: 1,
            head_dim: 3,
            ffn: 5,
            vocab: 11,
            tied: false,
            rope_theta: 10000.0,
            norm_eps: 1e-5,
            extra: Default::default(),
        }
    }

    /// The first numbers of an embedding, drawn by the formula in another language: what a seed means never changes.
    #[test]
    fn a_seed_means_the_same_for_ever() {
        let param = &unit_params(&shape(), Unit::Embed).0[0];
        assert_eq!((param.name.as_str(), param.init), ("model.embed_tokens.weight", Init::Normal(0.02)));
        let mut values = [0.0; 4];
        init(7, param, 0, &mut values);
        assert_eq!(values.map(f32::to_bits), [0xbd5e_6bb6, 0x3ba0_fe5c, 0x3bcf_9fd3, 0x3caa_8607]);
    }

    /// Parts of a parameter hold what the whole does, wherever they start and end.
    #[test]
    fn parts_are_those_of_the_whole() {
        for param in [Unit::Embed, Unit::Block(0)].into_iter().flat_map(|unit| unit_params(&shape(), unit).0) {
            let mut whole = vec![f32::NAN; param.len()];
            init(7, &param, 0, &mut whole);
            assert!(whole.iter().all(|x| x.is_finite()));
            for start in 0..param.len() {
                for len in 0..=(param.len() - start).min(4) {
                    let mut part = vec![f32::NAN; len];
                    init(7, &param, start, &mut part);
                    assert_eq!(part, whole[start..start + len], "{} from {start}", param.name);
                }
            }
        }
    }
}
