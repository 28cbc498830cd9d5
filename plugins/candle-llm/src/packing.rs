//! Blocks of a GGUF file as weights for [`crate::tiles`]: those of 4, 5 and 8 bits keep their codes,
//! all others are quantised to 8 bits.
//!
//! The block layouts are those of ggml (`ggml-quants`); tests compare every one with candle's own
//! reading of it.

use candle_core::quantized::GgmlDType;
use half::f16;

use crate::tiles::{BLOCK, Bits, Weights};

/// Values of a block of the k types.
const SUPER: usize = 256;
/// Blocks of 32 in it.
const PARTS: usize = SUPER / BLOCK;

/// How a type is held in tiles: its bits, and whether its blocks have least values. `None` for those
/// that are quantised anew.
pub(crate) fn kept(kind: GgmlDType) -> Option<(Bits, bool)> {
    match kind {
        GgmlDType::Q4_0 => Some((Bits::Four, false)),
        GgmlDType::Q4_1 | GgmlDType::Q4K => Some((Bits::Four, true)),
        GgmlDType::Q5_0 => Some((Bits::Five, false)),
        GgmlDType::Q5_1 | GgmlDType::Q5K => Some((Bits::Five, true)),
        GgmlDType::Q8_0 => Some((Bits::Eight, false)),
        _ => None,
    }
}

/// The weights of whole blocks of a type that is kept.
pub(crate) fn unpack(kind: GgmlDType, bytes: &[u8]) -> Vec<Weights> {
    let blocks = bytes.chunks_exact(kind.type_size());
    let mut out = Vec::with_capacity(blocks.len() * kind.block_size() / BLOCK);
    for block in blocks {
        match kind {
            GgmlDType::Q4_0 => {
                out.push(Weights { codes: halves(&block[2..]), ..step(block, false) })
            }
            GgmlDType::Q4_1 => {
                out.push(Weights { codes: halves(&block[4..]), ..step(block, true) })
            }
            GgmlDType::Q5_0 => {
                out.push(Weights { codes: fifths(&block[2..]), ..step(block, false) })
            }
            GgmlDType::Q5_1 => {
                out.push(Weights { codes: fifths(&block[4..]), ..step(block, true) })
            }
            GgmlDType::Q8_0 => {
                let codes = std::array::from_fn(|at| block[2 + at] ^ Bits::Eight.zero());
                out.push(Weights { codes, ..step(block, false) });
            }
            GgmlDType::Q4K => out.extend(quarters(block, &[], &block[16..])),
            GgmlDType::Q5K => out.extend(quarters(block, &block[16..48], &block[48..])),
            _ => {}
        }
    }
    out
}

fn number(bytes: &[u8]) -> f16 {
    f16::from_le_bytes([bytes[0], bytes[1]])
}

/// The scale that a block begins with and, where it has one, the least value after it.
fn step(block: &[u8], has_least: bool) -> Weights {
    let least = if has_least { number(&block[2..]) } else { f16::ZERO };
    Weights { codes: [0; BLOCK], scale: number(block), least }
}

/// The first 16 codes in the low halves of 16 bytes, the others in the high ones.
fn halves(bytes: &[u8]) -> [u8; BLOCK] {
    std::array::from_fn(|at| bytes[at % 16] >> (at / 16 * 4) & 15)
}

/// 32 highest bits, and the rest as [`halves`].
fn fifths(bytes: &[u8]) -> [u8; BLOCK] {
    let highest = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let rest = halves(&bytes[4..]);
    std::array::from_fn(|at| rest[at] | if highest >> at & 1 == 1 { 16 } else { 0 })
}

/// Eight blocks with 6-bit scales and least values of their own, in units that they share.
fn quarters(block: &[u8], highest: &[u8], codes: &[u8]) -> [Weights; PARTS] {
    let (unit, least_unit) = (number(block).to_f32(), number(&block[2..]).to_f32());
    let sixes = &block[4..16];
    std::array::from_fn(|part| {
        let (scale, least) = six_bits(sixes, part);
        let codes = std::array::from_fn(|at| {
            let low = codes[part / 2 * BLOCK + at] >> (part % 2 * 4) & 15;
            let high = highest.get(at).is_some_and(|bits| bits >> part & 1 == 1);
            low | if high { 16 } else { 0 }
        });
        Weights {
            codes,
            scale: f16::from_f32(unit * f32::from(scale)),
            least: f16::from_f32(-least_unit * f32::from(least)),
        }
    })
}

/// The scale and the least value of a part, out of twelve bytes that hold eight of each.
fn six_bits(bytes: &[u8], part: usize) -> (u8, u8) {
    if part < 4 {
        return (bytes[part] & 63, bytes[part + 4] & 63);
    }
    let low = bytes[part + 4];
    ((low & 15) | (bytes[part - 4] >> 6) << 4, (low >> 4) | (bytes[part] >> 6) << 4)
}

#[cfg(test)]
mod tests {
    use candle_core::quantized::{QStorage, QTensor};
    use candle_core::{Device, Shape, Tensor};

    use super::*;

    #[test]
    fn every_kept_type_reads_as_candle_reads_it() {
        let values: Vec<f32> =
            (0..4 * SUPER).map(|i| ((i * 37 % 101) as f32 - 43.0) / 17.0).collect();
        let plain = Tensor::from_vec(values, (4, SUPER), &Device::Cpu).unwrap();
        for kind in [
            GgmlDType::Q4_0,
            GgmlDType::Q4_1,
            GgmlDType::Q5_0,
            GgmlDType::Q5_1,
            GgmlDType::Q8_0,
            GgmlDType::Q4K,
            GgmlDType::Q5K,
        ] {
            let bytes = QTensor::quantize(&plain, kind).unwrap().data().unwrap().into_owned();
            let (bits, has_least) = kept(kind).unwrap();
            let storage = QStorage::from_data(bytes.clone().into(), &Device::Cpu, kind).unwrap();
            let theirs = QTensor::new(storage, Shape::from((4, SUPER))).unwrap();
            let theirs = theirs.dequantize(&Device::Cpu).unwrap();
            let theirs: Vec<f32> = theirs.flatten_all().unwrap().to_vec1().unwrap();
            let ours = unpack(kind, &bytes).into_iter().flat_map(|weights| {
                let zero = if has_least { 0 } else { bits.zero() };
                weights.codes.map(|code| {
                    (f32::from(code) - f32::from(zero)) * weights.scale.to_f32()
                        + weights.least.to_f32()
                })
            });
            let ours: Vec<f32> = ours.collect();
            assert_eq!(ours.len(), theirs.len(), "{kind:?}");
            for (ours, theirs) in ours.iter().zip(&theirs) {
                assert!((ours - theirs).abs() < 4e-3, "{kind:?}: {ours} for {theirs}");
            }
        }
        assert!(kept(GgmlDType::F16).is_none() && kept(GgmlDType::Q6K).is_none());
    }
}
