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

#[test]
fn only_a_known_file_or_one_that_is_accepted_is_added() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.onnx");
    std::fs::write(&file, "another file").unwrap();
    let add = |name: &str, accept| add_detector(name, &file, directory.path(), accept).unwrap_err();
    assert!(matches!(add("yolox-nano", true), ModelsError::Mismatch { .. }));
    assert!(matches!(add("mine", false), ModelsError::Unverified { .. }));
    assert!(matches!(add("mine", true), ModelsError::Convert { .. }));
    assert!(matches!(add("../mine", true), ModelsError::Catalogue { .. }));
    assert!(detectors(directory.path()).is_empty());
}

#[test]
fn detectors_are_known_by_what_is_written_in_them() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, remarks: &BTreeMap<&str, &str>| {
        let mut bytes = Vec::new();
        write(&Named::new(), remarks, &mut bytes).unwrap();
        std::fs::write(directory.path().join(name), bytes).unwrap();
    };
    file("eye.safetensors", &BTreeMap::from([KIND]));
    file("ear.safetensors", &BTreeMap::from([("qudao.kind", "transcribe")]));
    file("eye.part", &BTreeMap::from([KIND]));
    std::fs::write(directory.path().join("x.safetensors"), "no model").unwrap();
    let found: Vec<String> = detectors(directory.path()).into_keys().collect();
    assert_eq!(found, ["eye"]);
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_converted_or_refused(bytes in proptest::collection::vec(0u8.., 0..400)) {
        if let Ok(file) = Onnx::read(&bytes) {
            drop(named(&file));
        }
    }
}
