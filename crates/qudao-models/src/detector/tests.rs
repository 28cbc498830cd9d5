use super::*;

#[test]
fn what_is_no_onnx_file_is_refused_with_a_reason() {
    let directory = tempfile::tempdir().unwrap();
    let (from, to) = (directory.path().join("a.onnx"), directory.path().join("a.safetensors"));
    for bytes in [&b""[..], b"not an onnx file", &[0xff; 64]] {
        std::fs::write(&from, bytes).unwrap();
        let error = convert_detector(&from, &to).unwrap_err().to_string();
        assert!(error.contains("a.onnx"), "{error}");
        assert!(!to.exists());
    }
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_converted_or_refused(bytes in proptest::collection::vec(0u8.., 0..400)) {
        if let Ok(file) = Onnx::read(&bytes) {
            drop(named(&file));
        }
    }
}
