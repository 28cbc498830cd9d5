"""compare.py MODEL FEATURES: exits with 1 unless each vector of `features` has a cosine above 0.999 with ONNX Runtime's."""
import pathlib, random, subprocess, sys
import numpy as np
from network import Reference, read

model, features = sys.argv[1:]
network, card, _, _ = read(model)
lines = [line.split("\t")[1] for name in ("own-en", "own-zh")
         for line in (pathlib.Path("scripts/sentiment") / f"{name}.tsv").read_text(encoding="utf8").splitlines() if not line.startswith("#")]
choose = random.Random(7)
lines = choose.sample(lines, 60) + [" ".join(choose.choices(lines, k=choose.randint(2, 12))) for _ in range(40)]
out = subprocess.run([features, model, str(network["layers"])], input="".join(line + "\n" for line in lines).encode(), stdout=subprocess.PIPE, check=True).stdout
ours = np.frombuffer(out, "<f4").reshape(len(lines), -1)
reference = Reference(model)
theirs = np.stack([reference.means([ids])[0] for ids in reference.ids(lines, card.get("query", ""))])
cosine = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
print(f"{pathlib.Path(model).stem}: {len(lines)} texts, least cosine {cosine.min():.6f}, largest difference {abs(ours - theirs).max():.1e}")
sys.exit(not 0.999 < cosine.min())
