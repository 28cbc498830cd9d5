"""A YOLOv8 beside ONNX Runtime, on one picture: folded as the export has it, and with batch norms as in training.

    compare.py LOOK DETECTOR.onnx DETECTOR.safetensors FOLDER
"""
import json
import pathlib
import struct
import subprocess
import sys

import numpy
import onnxruntime
import skimage

SIDE = 320
# What is known to be in the picture: a face, and how sure the model is of it.
FOUND = ("FACE_FEMALE", 0.81)
EPSILON = 1e-3


def read(path):
    """Tensors and remarks of a safetensors file of single precision."""
    data = pathlib.Path(path).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + length])
    remarks = header.pop("__metadata__", {})
    tensors = {}
    for name, told in header.items():
        first, last = told["data_offsets"]
        numbers = numpy.frombuffer(data[8 + length:][first:last], "<f4")
        tensors[name] = numbers.reshape(told["shape"]).copy()
    return tensors, remarks


def write(path, tensors, remarks):
    header, blobs, at = {"__metadata__": remarks}, [], 0
    for name, numbers in tensors.items():
        blob = numpy.ascontiguousarray(numbers, "<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(numbers.shape), "data_offsets": [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    text = json.dumps(header).encode()
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def unfold(tensors):
    """The same network with batch norms of any kind behind its convolutions."""
    random = numpy.random.default_rng(8)
    whole = {}
    for name, numbers in tensors.items():
        if name.endswith(".conv.bias") and ".22.dfl" not in name:
            continue
        if not name.endswith(".conv.weight") or f"{name[:-6]}bias" not in tensors:
            whole[name] = numbers
            continue
        block, outputs = name[: -len(".conv.weight")], numbers.shape[0]
        variance = random.uniform(0.5, 2.0, outputs).astype("f4")
        weight = random.uniform(0.5, 2.0, outputs).astype("f4")
        mean = random.uniform(-1.0, 1.0, outputs).astype("f4")
        scale = weight / numpy.sqrt(variance + EPSILON)
        whole[name] = numbers / scale[:, None, None, None]
        whole[f"{block}.bn.weight"] = weight
        whole[f"{block}.bn.bias"] = tensors[f"{block}.conv.bias"] + mean * scale
        whole[f"{block}.bn.running_mean"] = mean
        whole[f"{block}.bn.running_var"] = variance
    return whole


def look(program, weights, picture, folder):
    line = subprocess.run(
        [program, weights, "--side", str(SIDE), "--raw", folder, picture],
        check=True, capture_output=True, text=True,
    ).stdout
    return json.loads(line)["found"]


def main():
    program, onnx, weights, folder = sys.argv[1:]
    picture = pathlib.Path(skimage.__file__).parent / "data" / "astronaut.png"
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    tensors, remarks = read(weights)
    unfolded = f"{folder}/unfolded.safetensors"
    whole = unfold(tensors)
    norms = sum(name.endswith(".bn.weight") for name in whole)
    if norms < 50:
        sys.exit(f"only {norms} convolutions were given a batch norm")
    write(unfolded, whole, remarks)
    told = []
    for name, file in (("folded", weights), (f"{norms} batch norms", unfolded)):
        found = look(program, file, picture, folder)
        pixels = numpy.fromfile(f"{folder}/astronaut.in", "<f4").reshape(SIDE, SIDE, 3)
        theirs = session.run(None, {session.get_inputs()[0].name: pixels.transpose(2, 0, 1)[None].copy()})[0][0].T
        ours = numpy.fromfile(f"{folder}/astronaut.out", "<f4").reshape(-1, 5 + theirs.shape[1] - 4)
        # The family does not say whether there is something at all: that column is ours alone.
        ours = numpy.delete(ours, 4, axis=1)
        off = (numpy.abs(ours - theirs) / numpy.maximum(numpy.abs(theirs), 1.0)).max()
        best = found[0] if found else None
        if off > 1e-3 or best is None or best["label"] != FOUND[0] or abs(best["score"] - FOUND[1]) > 0.02:
            sys.exit(f"{name}: {off:.2e} off; found {found}, expected {FOUND}")
        told.append(f"{name} within {off:.1e}")
    print(f"yolov8: {', '.join(told)} of ONNX Runtime; found {best['label']} {best['score']:.2f}")


if __name__ == "__main__":
    main()
