//! `convert DETECTOR.onnx OUT.safetensors`
fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    qudao_models::convert_detector(arguments[1].as_ref(), arguments[2].as_ref()).unwrap();
}
