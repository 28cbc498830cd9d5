"""speed.py MODEL THREADS SECONDS TEXTSxTOKENS…: prints for each shape how many texts a second ONNX Runtime reads."""
import sys, time
from network import Reference

model, threads, seconds, *shapes = sys.argv[1:]
reference = Reference(model, int(threads))
for shape in shapes:
    texts, tokens = map(int, shape.split("x"))
    batch = [[1000 + 37 * at % 8000 for at in range(tokens)]] * texts
    reference.means(batch)
    start, runs = time.perf_counter(), 0
    while time.perf_counter() - start < float(seconds):
        reference.means(batch)
        runs += 1
    print(runs * texts / (time.perf_counter() - start))
