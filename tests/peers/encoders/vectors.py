"""The vectors by which `make test` knows that the encoders are right: made by ONNX Runtime from the same weights, a
text at a time. Writes plugins/encoder/tests/vectors-<model>.json.

    python tests/peers/encoders/vectors.py MODELS
"""
import json, pathlib, sys
import numpy as np
from network import Reference

TEXTS = [
    "Where is my parcel?",
    "The parcel came a day early, thank you!",
    "我的快递还没到，应该怎么办？",
    "這是我喝過最好喝的咖啡。",
    "Ich möchte meine Bestellung zurückgeben.",
    "C'est pas mal 👍😀",
    "a",
    "Order #20231105, 2 × 15.90 €\n\tplease   confirm",
    "word " * 700,
    "为什么" * 300,
]

if __name__ == "__main__":
    models = pathlib.Path(sys.argv[1])
    for name in ("multilingual-e5-small", "all-minilm-l6-v2"):
        reference = Reference(str(models / f"{name}.safetensors"))
        texts = []
        for purpose in ("query", "passage"):
            ids = reference.ids(TEXTS, reference.card.get(purpose, ""))
            for text, of in zip(TEXTS, ids):
                mean = reference.means([of])[0]
                vector = mean / np.linalg.norm(mean)
                texts.append(dict(purpose=purpose, text=text, tokens=len(of), vector=[round(float(v), 6) for v in vector]))
        out = pathlib.Path(__file__).parents[3] / f"plugins/encoder/tests/vectors-{name}.json"
        out.parent.mkdir(exist_ok=True)
        out.write_text(json.dumps(texts, ensure_ascii=False, separators=(",", ":")).replace('{"purpose"', '\n{"purpose"') + "\n")
        print(name, len(texts), "vectors")
