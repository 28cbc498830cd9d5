"""The network of an encoder's file as an ONNX graph, made of ONNX's own operators: an independent reading of the
same weights for ONNX Runtime."""
import json, struct
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def read(path):
    raw = open(path, "rb").read()
    (length,) = struct.unpack_from("<Q", raw)
    header = json.loads(raw[8:8 + length])
    about = header.pop("__metadata__")

    def tensor(name):
        entry = header[name]
        start, end = entry["data_offsets"]
        data = raw[8 + length + start:8 + length + end]
        if entry["dtype"] == "U8":
            # Q4_0: a scale in half precision, then the low and the high halves of 32 numbers of four bits.
            blocks = np.frombuffer(data, np.uint8).reshape(-1, 18)
            scale = blocks[:, :2].copy().view("<f2").astype(np.float32)
            bits = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], 1).astype(np.float32)
            return ((bits - 8) * scale).reshape(entry["shape"][0], -1)
        kind = {"F32": "<f4", "F16": "<f2"}[entry["dtype"]]
        return np.frombuffer(data, kind).astype(np.float32).reshape(entry["shape"])

    return json.loads(about["qudao.network"]), json.loads(about["qudao.card"]), about["qudao.tokenizer"], tensor


def graph(network, tensor):
    """ids and mask, batch by tokens, to the mean of the last layer."""
    nodes, weights = [], []
    heads, hidden, layers, eps = (network[k] for k in ("heads", "hidden", "layers", "epsilon"))

    def keep(name, value):
        weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def op(kind, inputs, name, **attributes):
        nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def norm(x, source, name):
        return op("LayerNormalization", [x, keep(name + ".w", tensor(source + ".weight")), keep(name + ".b", tensor(source + ".bias"))], name, axis=-1, epsilon=eps)

    def linear(x, source, name):
        product = op("MatMul", [x, keep(name + ".w", tensor(source + ".weight").T)], name + ".m")
        return op("Add", [product, keep(name + ".b", tensor(source + ".bias"))], name)

    words = op("Gather", [keep("word", tensor("embeddings.word_embeddings.weight")), "ids"], "words")
    shape = op("Shape", ["ids"], "shape")
    many = op("Gather", [shape, keep("one", np.array([1]))], "many")
    places = tensor("embeddings.position_embeddings.weight") + tensor("embeddings.token_type_embeddings.weight")[0]
    place = op("Slice", [keep("places", places), keep("from", np.array([0])), many, keep("axes", np.array([0]))], "place")
    x = norm(op("Add", [words, place], "sum"), "embeddings.LayerNorm", "first")
    float_mask = op("Cast", ["mask"], "float_mask", to=TensorProto.FLOAT)
    wide_mask = op("Unsqueeze", [float_mask, keep("axes12", np.array([1, 2]))], "wide_mask")
    bias = op("Mul", [op("Sub", [wide_mask, keep("unit", np.array([1], np.float32))], "absent"), keep("huge", np.array([1e9], np.float32))], "bias")
    split = keep("split", np.array([0, 0, heads, hidden // heads]))
    joined = keep("joined", np.array([0, 0, hidden]))
    scale = keep("scale", np.array([(hidden // heads) ** -0.5], np.float32))
    for l in range(layers):
        source, n = f"encoder.layer.{l}.", f"l{l}."
        part = {}
        for key in ("query", "key", "value"):
            y = linear(x, source + "attention.self." + key, n + key)
            y = op("Reshape", [y, split], n + key + ".r")
            part[key] = op("Transpose", [y], n + key + ".t", perm=[0, 2, 3, 1] if key == "key" else [0, 2, 1, 3])
        score = op("Mul", [op("MatMul", [part["query"], part["key"]], n + "qk"), scale], n + "scaled")
        weight = op("Softmax", [op("Add", [score, bias], n + "masked")], n + "weight", axis=-1)
        heard = op("Transpose", [op("MatMul", [weight, part["value"]], n + "wv")], n + "back", perm=[0, 2, 1, 3])
        mixed = linear(op("Reshape", [heard, joined], n + "heard"), source + "attention.output.dense", n + "mixed")
        x = norm(op("Add", [mixed, x], n + "mixed.x"), source + "attention.output.LayerNorm", n + "norm")
        inner = op("Gelu", [linear(x, source + "intermediate.dense", n + "up")], n + "gelu")
        out = linear(inner, source + "output.dense", n + "down")
        x = norm(op("Add", [out, x], n + "down.x"), source + "output.LayerNorm", n + "out")
    rows = op("Unsqueeze", [float_mask, keep("axis2", np.array([2]))], "rows")
    axis = keep("axis1", np.array([1]))
    total = op("ReduceSum", [op("Mul", [x, rows], "counted"), axis], "total", keepdims=0)
    op("Div", [total, op("ReduceSum", [rows, axis], "length", keepdims=0)], "mean")
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["texts", "tokens"])
    mask = helper.make_tensor_value_info("mask", TensorProto.INT64, ["texts", "tokens"])
    mean = helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["texts", hidden])
    made = helper.make_graph(nodes, "encoder", [ids, mask], [mean], weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


class Reference:
    def __init__(self, path, threads=0):
        import onnxruntime
        from tokenizers import Tokenizer
        network, self.card, tokenizer, tensor = read(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        model = graph(network, tensor)
        self.session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        self.tokenizer = Tokenizer.from_str(tokenizer)
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(self.card["max_tokens"])

    def ids(self, texts, prefix):
        return [e.ids for e in self.tokenizer.encode_batch([prefix + t for t in texts])]

    def means(self, ids):
        width = max(map(len, ids))
        padded = np.array([i + [1] * (width - len(i)) for i in ids], np.int64)
        mask = np.array([[1] * len(i) + [0] * (width - len(i)) for i in ids], np.int64)
        return self.session.run(["mean"], {"ids": padded, "mask": mask})[0]
