use proptest::prelude::*;

use super::*;

fn card() -> Encoder {
    Encoder { max_tokens: 8, query: "q: ".to_owned(), passage: String::new() }
}

/// A container of one layer whose matrices are all of one block's width.
fn e5s1() -> Vec<u8> {
    let mut file = b"E5S1\x01\0\0\0".to_vec();
    for number in [32_i32, 1, 2, 64, 3, 4, 1] {
        file.extend(number.to_le_bytes());
    }
    file.extend(1e-5_f32.to_le_bytes());
    for number in [32_i32, 0, 0, 2, 1, 3] {
        file.extend(number.to_le_bytes());
    }
    file.extend(0_u64.to_le_bytes());
    file.extend([0; 4 + 4 + 4]);
    let row = |columns: usize| columns / 32 * 18;
    let mut tensors: Vec<(String, usize)> = [
        ("emb.word", 3 * row(32)),
        ("emb.pos", 4 * 32 * 4),
        ("emb.type", 32 * 4),
        ("emb.ln.w", 32 * 4),
        ("emb.ln.b", 32 * 4),
    ]
    .map(|(name, length)| (name.to_owned(), length))
    .to_vec();
    for (name, rows, columns) in [
        ("q", 32, 32),
        ("k", 32, 32),
        ("v", 32, 32),
        ("ao", 32, 32),
        ("fi", 64, 32),
        ("fo", 32, 64),
    ] {
        tensors.push((format!("l0.{name}.w"), rows * row(columns)));
        tensors.push((format!("l0.{name}.b"), rows * 4));
    }
    for name in ["aln.w", "aln.b", "oln.w", "oln.b"] {
        tensors.push((format!("l0.{name}"), 32 * 4));
    }
    file.extend(i32::try_from(tensors.len()).unwrap().to_le_bytes());
    let entries: usize = tensors.iter().map(|(name, _)| 2 + name.len() + 21).sum();
    let mut at = file.len() + entries;
    for (name, length) in &tensors {
        file.extend(u16::try_from(name.len()).unwrap().to_le_bytes());
        file.extend(name.as_bytes());
        file.push(0);
        file.extend(0_u32.to_le_bytes());
        file.extend((at as u64).to_le_bytes());
        file.extend((*length as u64).to_le_bytes());
        at += length;
    }
    file.extend((file.len()..at).map(|byte| u8::try_from(byte % 251).unwrap()));
    file
}

fn put(weights: &[u8], form: WeightsForm, config: Option<&[u8]>) -> Result<Vec<u8>, ModelsError> {
    let home = tempfile::tempdir().unwrap();
    let to = home.path().join("m.safetensors");
    assemble(&Pieces { weights, tokenizer: b"{}", config }, form, &card(), &to)?;
    Ok(std::fs::read(to).unwrap())
}

#[test]
fn a_container_becomes_safetensors_with_the_same_bytes() {
    let container = e5s1();
    let file = put(&container, WeightsForm::E5s1, None).unwrap();
    let length = usize::try_from(u64::from_le_bytes(*file.first_chunk().unwrap())).unwrap();
    let header: Value = serde_json::from_slice(&file[8..8 + length]).unwrap();
    let network: Network =
        serde_json::from_str(header["__metadata__"]["qudao.network"].as_str().unwrap()).unwrap();
    assert_eq!((network.layers, network.inner, network.vocabulary), (1, 64, 3));
    assert_eq!(header["__metadata__"]["qudao.tokenizer"], "{}");
    let word = &header["embeddings.word_embeddings.weight"];
    assert_eq!(word["shape"], json!([3, 18]));
    let at = usize::try_from(word["data_offsets"][0].as_u64().unwrap()).unwrap() + 8 + length;
    let (_, read) = e5s1::read(&container).unwrap();
    let original =
        read.iter().find(|tensor| tensor.name == "embeddings.word_embeddings.weight").unwrap();
    assert_eq!(&file[at..at + 54], original.bytes);
    assert_eq!(file, put(&container, WeightsForm::E5s1, None).unwrap());
}

#[test]
fn safetensors_lose_what_no_encoder_uses() {
    let config =
        br#"{"model_type":"bert","hidden_act":"gelu","num_hidden_layers":1,"hidden_size":4,
        "num_attention_heads":1,"intermediate_size":8,"max_position_embeddings":4,"vocab_size":2}"#;
    let header = br#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},
        "pooler.dense.bias":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.extend([1, 2, 3, 4, 5, 6, 7, 8]);
    let out = put(&file, WeightsForm::Safetensors, Some(config)).unwrap();
    assert!(out.ends_with(&[1, 2, 3, 4]));
    let refused = put(&file, WeightsForm::Safetensors, Some(b"{}")).unwrap_err().to_string();
    assert!(refused.contains("bert"), "{refused}");
}

proptest! {
    #[test]
    fn damaged_weights_are_refused_or_read(cut in 0..4_000_usize, at in 0..400_usize, byte: u8) {
        let mut file = e5s1();
        file[at] = byte;
        file.truncate(file.len().saturating_sub(cut % 97));
        drop(e5s1::read(&file));
        drop(tensors(&file));
        drop(tensors(&file[8..]));
    }
}
