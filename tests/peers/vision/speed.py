"""How many pictures a second ONNX Runtime looks at: the median of some rounds.

    speed.py yolox_nano.onnx THREADS ROUNDS
"""
import statistics
import sys
import time

import numpy
import onnxruntime

from reference import picture


def main():
    onnx, threads, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    pixels = picture(0).astype(numpy.float32).transpose(2, 0, 1)[None].copy()
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        session.run(None, {"images": pixels})
        times.append(time.perf_counter() - begun)
    print(1 / statistics.median(times))


if __name__ == "__main__":
    main()
