use proptest::prelude::*;

use super::*;

/// A container of one layer with one head.
fn container() -> Vec<u8> {
    let (d, vocabulary) = (64_u32, 3);
    let mut variables: Vec<(String, Vec<u32>)> = vec![
        ("encoder/conv1/weight".to_owned(), vec![d, 2, 3]),
        ("encoder/conv1/bias".to_owned(), vec![d]),
        ("encoder/conv2/weight".to_owned(), vec![d, d, 3]),
        ("encoder/conv2/bias".to_owned(), vec![d]),
        ("encoder/position_encodings/encodings".to_owned(), vec![4, d]),
        ("decoder/position_encodings/encodings".to_owned(), vec![5, d]),
        ("decoder/embeddings/weight".to_owned(), vec![vocabulary, d]),
    ];
    let norm = |variables: &mut Vec<(String, Vec<u32>)>, name: &str| {
        for part in ["gamma", "beta"] {
            variables.push((format!("{name}/{part}"), vec![d]));
        }
    };
    let linear = |variables: &mut Vec<(String, Vec<u32>)>, name: &str, rows: u32, columns: u32| {
        variables.push((format!("{name}/weight"), vec![rows, columns]));
        variables.push((format!("{name}/bias"), vec![rows]));
    };
    for side in ["encoder", "decoder"] {
        norm(&mut variables, &format!("{side}/layer_norm"));
        let layer = format!("{side}/layer_0");
        linear(&mut variables, &format!("{layer}/self_attention/linear_0"), 3 * d, d);
        linear(&mut variables, &format!("{layer}/self_attention/linear_1"), d, d);
        norm(&mut variables, &format!("{layer}/self_attention/layer_norm"));
        if side == "decoder" {
            linear(&mut variables, &format!("{layer}/attention/linear_0"), d, d);
            linear(&mut variables, &format!("{layer}/attention/linear_1"), 2 * d, d);
            linear(&mut variables, &format!("{layer}/attention/linear_2"), d, d);
            norm(&mut variables, &format!("{layer}/attention/layer_norm"));
        }
        linear(&mut variables, &format!("{layer}/ffn/linear_0"), 4 * d, d);
        linear(&mut variables, &format!("{layer}/ffn/linear_1"), d, 4 * d);
        norm(&mut variables, &format!("{layer}/ffn/layer_norm"));
    }
    let text = |file: &mut Vec<u8>, text: &str| {
        file.extend(u16::try_from(text.len() + 1).unwrap().to_le_bytes());
        file.extend(text.as_bytes());
        file.push(0);
    };
    let mut file = 6_u32.to_le_bytes().to_vec();
    text(&mut file, "WhisperSpec");
    file.extend(3_u32.to_le_bytes());
    file.extend(u32::try_from(variables.len()).unwrap().to_le_bytes());
    for (name, shape) in variables {
        text(&mut file, &name);
        file.push(u8::try_from(shape.len()).unwrap());
        for size in &shape {
            file.extend(size.to_le_bytes());
        }
        file.push(4);
        let length = shape.iter().product::<u32>() * 2;
        file.extend(length.to_le_bytes());
        file.extend((0..length).map(|at| u8::try_from(at % 251).unwrap()));
    }
    file.extend(0_u32.to_le_bytes());
    file
}

#[test]
fn a_container_becomes_safetensors_with_hugging_faces_names() {
    let file = container();
    let home = tempfile::tempdir().unwrap();
    let to = home.path().join("w.safetensors");
    let config = br#"{"suppress_ids":[1,2],"suppress_ids_begin":[3]}"#;
    assemble(&Pieces { weights: &file, tokenizer: b"{}", config }, &to).unwrap();
    let written = std::fs::read(to).unwrap();
    let length = usize::try_from(u64::from_le_bytes(*written.first_chunk().unwrap())).unwrap();
    let header: Value = serde_json::from_slice(&written[8..8 + length]).unwrap();
    let network: Value =
        serde_json::from_str(header["__metadata__"]["qudao.network"].as_str().unwrap()).unwrap();
    let expected = json!({"layers": 1, "hidden": 64, "heads": 1, "mels": 2, "positions": 4,
        "text_positions": 5, "vocabulary": 3});
    assert_eq!(network, expected);
    assert_eq!(header["__metadata__"]["qudao.card"], r#"{"suppress":[1,2],"suppress_first":[3]}"#);
    assert_eq!(header["model.encoder.layers.0.self_attn.v_proj.weight"]["shape"], json!([64, 64]));
    assert!(header.get("model.encoder.layers.0.self_attn.k_proj.bias").is_none());
    assert!(header.get("model.decoder.layers.0.encoder_attn.k_proj.weight").is_some());
    // The second of the three parts of one matrix.
    let (_, all) = tensors(&file).unwrap();
    let key = all.iter().find(|t| t.name.ends_with("decoder.layers.0.self_attn.k_proj.weight"));
    assert_eq!(key.unwrap().bytes[0], u8::try_from((64 * 64 * 2) % 251).unwrap());
}

#[test]
fn other_networks_and_other_precisions_are_refused() {
    let mut file = container();
    file[6..17].copy_from_slice(b"WhisperSpeX");
    assert!(tensors(&file).unwrap_err().contains("WhisperSpeX"));
    assert!(tensors(b"GGUF1234").is_err());
    let name = b"encoder/conv1/weight\0";
    let mut file = container();
    let at = file.windows(name.len()).position(|window| window == name).unwrap();
    file[at + name.len() + 1 + 12] = 1;
    assert!(tensors(&file).unwrap_err().contains("precision"));
}

proptest! {
    #[test]
    fn damaged_weights_are_refused_or_read(cut in 0..2_000_usize, at in 0..2_000_usize, byte: u8) {
        let mut file = container();
        file[at] = byte;
        file.truncate(file.len().saturating_sub(cut * 97));
        drop(tensors(&file));
    }
}
