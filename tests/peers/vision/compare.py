"""The detector beside ONNX Runtime, on the same weights, pictures and threads.

    compare.py LOOK yolox_nano.onnx yolox-nano.safetensors FOLDER
"""
import hashlib
import json
import pathlib
import statistics
import subprocess
import sys
import time

import numpy
import onnxruntime
import skimage

from reference import SIDE, decode

# Sample pictures that come with scikit-image, their sums, and what has to be found in them.
PICTURES = {
    "astronaut.png": ("88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5", "person", 0.93),
    "chelsea.png": ("596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb", "cat", 0.62),
    "coffee.png": ("cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7", "cup", 0.90),
    "motorcycle_left.png": ("db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179", "motorcycle", 0.89),
}
ROUNDS = 60
TURNS = 5


def session(onnx, threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])


def check(pictures, look, onnx, weights, folder):
    """The network's numbers, and what is found."""
    lines = subprocess.run(
        [look, weights, "--raw", folder, *pictures], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    peer, worst = session(onnx, 2), 0.0
    for path, line in zip(pictures, lines):
        stem = pathlib.Path(path).stem
        pixels = numpy.fromfile(f"{folder}/{stem}.in", "<f4").reshape(SIDE, SIDE, 3)
        ours = numpy.fromfile(f"{folder}/{stem}.out", "<f4").reshape(-1, 85)
        theirs = decode(peer.run(None, {"images": pixels.transpose(2, 0, 1)[None].copy()})[0][0])
        # ONNX Runtime's sigmoid is itself off by some 10⁻⁷: small scores are compared with a hundredth.
        least = numpy.where(numpy.arange(85) < 4, 1.0, 1e-2)
        off = numpy.abs(ours - theirs) / numpy.maximum(numpy.abs(theirs), least)
        worst = max(worst, float(off.max()))
        _, label, score = PICTURES[pathlib.Path(path).name]
        best = json.loads(line)["found"][0]
        if best["label"] != label or abs(best["score"] - score) > 0.015:
            sys.exit(f"{path}: {best}, expected {label} {score}")
    # In single precision each of the two is up to 7 · 10⁻⁴ away from what double precision gives, by chance on
    # different sides.
    if worst > 2e-3:
        sys.exit(f"the numbers are up to {worst:.2e} off, relative to ONNX Runtime's")
    return worst


def ours(look, weights, picture, threads):
    line = subprocess.run(
        [look, weights, "--rounds", str(ROUNDS), "--threads", str(threads), picture],
        check=True, capture_output=True, text=True,
    ).stdout
    return json.loads(line)["time"]["network_ms"]


def theirs(onnx, picture, folder, threads):
    peer = session(onnx, threads)
    pixels = numpy.fromfile(f"{folder}/{pathlib.Path(picture).stem}.in", "<f4")
    pixels = pixels.reshape(SIDE, SIDE, 3).transpose(2, 0, 1)[None].copy()
    times = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        peer.run(None, {"images": pixels})
        times.append((time.perf_counter() - begun) * 1e3)
    return statistics.median(times)


def main():
    look, onnx, weights, folder = sys.argv[1:]
    data = pathlib.Path(skimage.__file__).parent / "data"
    pictures = []
    for name, (sum_, _, _) in PICTURES.items():
        if hashlib.sha256((data / name).read_bytes()).hexdigest() != sum_:
            sys.exit(f"{name} is another picture")
        pictures.append(str(data / name))
    worst = check(pictures, look, onnx, weights, folder)
    told = []
    for threads in (1, 2):
        # In turns, so that what else the machine does hits both.
        pairs = [
            (ours(look, weights, pictures[0], threads), theirs(onnx, pictures[0], folder, threads))
            for _ in range(TURNS)
        ]
        mine, peer = (min(side) for side in zip(*pairs))
        told.append(f"{threads} thread(s): {1e3 / mine:.1f} and {1e3 / peer:.1f} pictures/s, {peer / mine:.2f} x")
    print(f"vision: {len(pictures)} pictures, numbers within {worst:.1e} of ONNX Runtime; {'; '.join(told)}")


if __name__ == "__main__":
    main()
