//! The decoder for devices, on the CPU, beside the decoder for the CPU.

use std::path::Path;

use candle_core::quantized::GgmlDType;

use super::*;
use crate::decoder::Decoder;
use crate::decoder::tests::{FAMILIES, difference, load, logits, prompt, write_model};
use crate::pool::Pool;

const CONTEXT: usize = 64;

fn open(path: &Path, change: fn(&mut Shape)) -> TensorDecoder {
    let gguf = Gguf::open(path).unwrap();
    let mut shape = Shape::read(&gguf).unwrap();
    change(&mut shape);
    TensorDecoder::load(&gguf, Arc::new(shape), CONTEXT, Device::Cpu, &mut |_, _| ()).unwrap()
}

fn run(decoder: &TensorDecoder, cache: &mut Cache, tokens: &[u32]) -> Vec<f32> {
    decoder.forward(&mut [Span { tokens, cache, logits: true }]).unwrap().remove(0).unwrap()
}

/// The same prompt through both, and the logits of the next tokens one by one.
fn compare(ours: &TensorDecoder, theirs: &Decoder, pool: &Pool) -> f32 {
    let tokens = prompt(29);
    let (mut a, mut b) = (Cache::default(), Cache::default());
    let mut worst =
        difference(&run(ours, &mut a, &tokens[..23]), &logits(theirs, pool, &mut b, &tokens[..23]));
    for token in tokens[23..].chunks(1) {
        let (ours, theirs) = (run(ours, &mut a, token), logits(theirs, pool, &mut b, token));
        worst = worst.max(difference(&ours, &theirs));
    }
    assert_eq!((a.len(), b.len()), (29, 29));
    worst
}

#[test]
fn every_family_computes_what_the_other_decoder_computes() {
    let home = tempfile::tempdir().unwrap();
    let pool = Pool::new(1).unwrap();
    for (family, head) in FAMILIES {
        let path = home.path().join(format!("{family}.gguf"));
        write_model(&path, family, head, None);
        let found = compare(&open(&path, |_| ()), &load(&path, &pool, |_| ()), &pool);
        // Activations in 8 bits there, and in full here.
        assert!(found < 0.05, "{family}: {found}");
    }
}

#[test]
fn quantised_weights_are_used_as_the_file_has_them() {
    let home = tempfile::tempdir().unwrap();
    let pool = Pool::new(1).unwrap();
    for kind in [GgmlDType::Q4_0, GgmlDType::Q4_1, GgmlDType::Q5_1, GgmlDType::Q8_0] {
        let path = home.path().join("model.gguf");
        write_model(&path, "qwen2", 16, kind);
        let found = compare(&open(&path, |_| ()), &load(&path, &pool, |_| ()), &pool);
        // candle rounds activations to 8 bits on the CPU.
        assert!(found < 0.06, "{kind:?}: {found}");
    }
}

#[test]
fn windows_and_partly_turned_heads_agree() {
    let home = tempfile::tempdir().unwrap();
    let pool = Pool::new(1).unwrap();
    let path = home.path().join("gemma3.gguf");
    write_model(&path, "gemma3", 32, None);
    let narrow: fn(&mut Shape) = |shape| shape.window = 5;
    assert!(compare(&open(&path, narrow), &load(&path, &pool, narrow), &pool) < 0.05);
    let path = home.path().join("llama.gguf");
    write_model(&path, "llama", 32, None);
    let partly: fn(&mut Shape) = |shape| shape.rope.frequencies.truncate(8);
    assert!(compare(&open(&path, partly), &load(&path, &pool, partly), &pool) < 0.05);
}

#[test]
fn conversations_side_by_side_and_a_truncated_cache_change_nothing() {
    let home = tempfile::tempdir().unwrap();
    for (family, head) in FAMILIES {
        let path = home.path().join(format!("{family}.gguf"));
        write_model(&path, family, head, None);
        let decoder = open(&path, |_| ());
        let (first, second) = (prompt(20), prompt(33)[7..].to_vec());
        let expected_first = run(&decoder, &mut Cache::default(), &first);
        let expected_second = run(&decoder, &mut Cache::default(), &second);
        let (mut a, mut b) = (Cache::default(), Cache::default());
        run(&decoder, &mut a, &prompt(30));
        a.truncate(12);
        let mut spans = [
            Span { tokens: &first[12..19], cache: &mut a, logits: false },
            Span { tokens: &second[..25], cache: &mut b, logits: false },
        ];
        assert_eq!(decoder.forward(&mut spans).unwrap(), [None, None]);
        let mut spans = [
            Span { tokens: &first[19..], cache: &mut a, logits: true },
            Span { tokens: &second[25..], cache: &mut b, logits: true },
        ];
        let last = decoder.forward(&mut spans).unwrap();
        let found =
            |index: usize, expected: &[f32]| difference(last[index].as_ref().unwrap(), expected);
        assert!(found(0, &expected_first) < 1e-4, "{family}");
        assert!(found(1, &expected_second) < 1e-4, "{family}");
    }
}

#[test]
fn a_tensor_of_another_shape_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("model.gguf");
    write_model(&path, "llama", 16, None);
    let gguf = Gguf::open(&path).unwrap();
    let mut shape = Shape::read(&gguf).unwrap();
    shape.inner = 64;
    let loaded = TensorDecoder::load(&gguf, Arc::new(shape), CONTEXT, Device::Cpu, &mut |_, _| ());
    let error = loaded.err().unwrap();
    assert!(matches!(&error, LoadError::Shape { tensor, .. } if tensor.contains("ffn")), "{error}");
}
