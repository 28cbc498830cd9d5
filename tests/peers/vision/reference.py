"""Writes the numbers that plugins/vision/tests/detector.rs compares with: what ONNX Runtime says of
pictures that both sides compute by the same formula.

    reference.py yolox_nano.onnx > plugins/vision/tests/reference.json
"""
import json
import sys

import numpy
import onnxruntime

SIDE = 416


def picture(kind):
    """Pixels as rows of blue, green and red: slopes, a chequered floor, and rings."""
    y, x, c = numpy.meshgrid(numpy.arange(SIDE), numpy.arange(SIDE), numpy.arange(3), indexing="ij")
    if kind == 0:
        return (x * 3 + y * 5 + c * 40 + x * y // 16) % 256
    if kind == 1:
        return numpy.where((x // 32 + y // 32) % 2 == 0, 220 - 40 * c, 30 + 50 * c)
    return ((x - 208) ** 2 + (y - 180) ** 2) // (40 + 9 * c) % 256


def decode(out):
    """The export leaves boxes relative to their cells: here they become pixels."""
    out = out.astype(numpy.float32)
    first = 0
    for stride in (8, 16, 32):
        side = SIDE // stride
        y, x = numpy.meshgrid(numpy.arange(side), numpy.arange(side), indexing="ij")
        cells = numpy.stack([x.reshape(-1), y.reshape(-1)], 1).astype(numpy.float32)
        rows = out[first:first + side * side]
        rows[:, :2] = (rows[:, :2] + cells) * stride
        rows[:, 2:4] = numpy.exp(rows[:, 2:4]) * stride
        first += side * side
    return out


def main():
    session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
    references = []
    for kind in range(3):
        pixels = picture(kind).astype(numpy.float32)
        out = session.run(None, {"images": pixels.transpose(2, 0, 1)[None]})[0][0]
        out = decode(out)
        flat = out.reshape(-1)
        # A prime step meets every column of every map.
        at = list(range(0, flat.size, 1009))
        references.append({
            "kind": kind,
            "places": int(out.shape[0]),
            "sum": float(flat.astype(numpy.float64).sum()),
            "at": at,
            "values": [float(flat[i]) for i in at],
        })
    json.dump(references, sys.stdout)
    print()


if __name__ == "__main__":
    main()
