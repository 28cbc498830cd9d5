"""A YOLOv8 beside ONNX Runtime, on one picture.

    yolov8.py LOOK DETECTOR.onnx DETECTOR.safetensors FOLDER
"""
import json
import pathlib
import subprocess
import sys

import numpy
import onnxruntime
import skimage

SIDE = 320

look, onnx, weights, folder = sys.argv[1:]
picture = pathlib.Path(skimage.__file__).parent / "data" / "astronaut.png"
line = subprocess.run(
    [look, weights, "--side", str(SIDE), "--raw", folder, picture],
    check=True, capture_output=True, text=True,
).stdout
pixels = numpy.fromfile(f"{folder}/astronaut.in", "<f4").reshape(SIDE, SIDE, 3)
session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
name = session.get_inputs()[0].name
theirs = session.run(None, {name: pixels.transpose(2, 0, 1)[None].copy()})[0][0].T
ours = numpy.fromfile(f"{folder}/astronaut.out", "<f4").reshape(-1, 5 + theirs.shape[1] - 4)
ours = numpy.delete(ours, 4, axis=1)
off = numpy.abs(ours - theirs) / numpy.maximum(numpy.abs(theirs), 1.0)
found = json.loads(line)["found"]
if off.max() > 1e-3 or not found:
    sys.exit(f"{off.max():.2e} off; found {found}")
print(f"vision: YOLOv8 within {off.max():.1e} of ONNX Runtime; found {found[0]['label']} {found[0]['score']:.2f}")
