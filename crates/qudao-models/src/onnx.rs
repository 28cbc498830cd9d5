//! The weights of a detector out of an ONNX file: which tensors there are and which convolution reads
//! which. Nothing of the file is executed, and no more of it is read than that.

use std::collections::HashMap;

use prost::Message;

/// Numbers of a tensor, row-major.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Array {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f32>,
}

/// What is of use in a file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Onnx {
    /// The constants that are 32-bit numbers, by name.
    pub(crate) arrays: HashMap<String, Array>,
    /// Names of weights and biases of the convolutions, in the order in which they are computed.
    pub(crate) convolutions: Vec<(String, Option<String>)>,
    /// The exporter's remarks.
    pub(crate) remarks: HashMap<String, String>,
}

impl Onnx {
    /// Reads a file's bytes.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, String> {
        let model = ModelProto::decode(bytes).map_err(|error| format!("no ONNX file: {error}"))?;
        let graph = model.graph.ok_or("no ONNX file: it has no graph")?;
        let mut arrays = HashMap::new();
        for tensor in graph.initializer {
            if tensor.data_type == FLOAT {
                let name = tensor.name.clone();
                arrays.insert(name, array(tensor)?);
            }
        }
        let convolutions = graph
            .node
            .into_iter()
            .filter(|node| node.op_type == "Conv")
            .filter_map(|node| {
                let mut inputs = node.input.into_iter().skip(1);
                Some((inputs.next()?, inputs.next()))
            })
            .collect();
        let remarks = model.metadata_props.into_iter().map(|entry| (entry.key, entry.value));
        Ok(Self { arrays, convolutions, remarks: remarks.collect() })
    }
}

const FLOAT: i32 = 1;

fn array(tensor: TensorProto) -> Result<Array, String> {
    let name = &tensor.name;
    let sides = tensor.dims.iter().map(|side| usize::try_from(*side).ok());
    let shape: Vec<usize> =
        sides.collect::<Option<_>>().ok_or_else(|| format!("`{name}` has a negative side"))?;
    let values: Vec<f32> = match tensor.raw_data.as_chunks::<4>() {
        ([], []) => tensor.float_data,
        (numbers, []) => numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        _ => return Err(format!("`{name}` is cut off")),
    };
    let count = shape.iter().try_fold(1usize, |count, side| count.checked_mul(*side));
    if count != Some(values.len()) {
        return Err(format!("`{name}` has {} numbers for the shape {shape:?}", values.len()));
    }
    Ok(Array { shape, values })
}

// The parts of onnx.proto3 that are read. A reader of protocol buffers skips what it does not know.

#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(message, optional, tag = "7")]
    graph: Option<GraphProto>,
    #[prost(message, repeated, tag = "14")]
    metadata_props: Vec<EntryProto>,
}

#[derive(Clone, PartialEq, Message)]
struct GraphProto {
    #[prost(message, repeated, tag = "1")]
    node: Vec<NodeProto>,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<TensorProto>,
}

#[derive(Clone, PartialEq, Message)]
struct NodeProto {
    #[prost(string, repeated, tag = "1")]
    input: Vec<String>,
    #[prost(string, tag = "4")]
    op_type: String,
}

#[derive(Clone, PartialEq, Message)]
struct TensorProto {
    #[prost(int64, repeated, tag = "1")]
    dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    data_type: i32,
    #[prost(float, repeated, tag = "4")]
    float_data: Vec<f32>,
    #[prost(string, tag = "8")]
    name: String,
    #[prost(bytes = "vec", tag = "9")]
    raw_data: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct EntryProto {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}
