"""Trains the head of `sentiment` on the encoder's vectors, tries it on texts that it never saw beside VADER and
SnowNLP, and writes plugins/sentiment/head.json and plugins/sentiment/MODEL_CARD.md.

The features are those of the encoder that serves (`features` of plugins/encoder), so what is measured here
is what a customer gets.
"""
import argparse, base64, collections, json, pathlib, subprocess, sys
import numpy as np
from sklearn.linear_model import LogisticRegression
import data

TAPS = [6, 8, 10, 12]
SETS = ["amazon", "movie", "tweet", "nyt", "own-en", "zh-reviews", "own-zh"]
# Own sentences are few and are what customers write: each counts as several.
WEIGHTS = {"own-en": 4.0, "own-zh": 4.0}
STRENGTHS = [0.002, 0.008]
FOLDS = 3


def features(program, model, texts):
    out = subprocess.run([program, model, ",".join(map(str, TAPS))], input="".join(t + "\n" for t in texts).encode(),
                         stdout=subprocess.PIPE, check=True).stdout
    return np.frombuffer(out, "<f4").reshape(len(texts), -1)


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


class Head:
    def __init__(self, strength):
        self.strength = strength

    def fit(self, x, y, weight):
        self.mean, self.scale = x.mean(0), x.std(0) + 1e-6
        lr = LogisticRegression(C=self.strength, max_iter=150, tol=1e-4)
        lr.fit((x - self.mean) / self.scale, y, sample_weight=weight)
        self.w, self.b = lr.coef_ / self.scale, lr.intercept_ - (lr.coef_ / self.scale) @ self.mean
        return self

    def logits(self, x):
        return x @ self.w.T + self.b


def folds(texts):
    return np.array([data.digest(text)[1] % FOLDS for text in texts])


def out_of_fold(x, y, weight, fold, strength):
    z = np.zeros((len(y), 3))
    for at in range(FOLDS):
        z[fold == at] = Head(strength).fit(x[fold != at], y[fold != at], weight[fold != at]).logits(x[fold == at])
    return z


def loss(z, y):
    return -np.log(softmax(z)[np.arange(len(y)), y] + 1e-12).mean()


def calibration_error(p, y, bins=10):
    """ECE: the mean distance between how sure the head is and how often it is right, in bins of equal width."""
    sure, right = p.max(1), p.argmax(1) == y
    at = np.minimum((sure * bins).astype(int), bins - 1)
    return sum(abs(sure[at == b].mean() - right[at == b].mean()) * (at == b).mean() for b in range(bins) if (at == b).any())


def macro_f1(found, y):
    scores = []
    for c in sorted(set(y)):
        hit = ((found == c) & (y == c)).sum()
        scores.append(2 * hit / max(1, (found == c).sum() + (y == c).sum()))
    return float(np.mean(scores))


def vader(texts):
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    judge = SentimentIntensityAnalyzer()
    return np.array([judge.polarity_scores(t)["compound"] for t in texts])


def three(compound):
    # The authors' own bounds.
    return np.where(compound >= 0.05, 2, np.where(compound <= -0.05, 0, 1))


def snownlp(texts, train_on=None):
    from snownlp import SnowNLP, sentiment
    if train_on is not None:
        judge = sentiment.Sentiment()
        judge.train([t for t, y in train_on if y == 0], [t for t, y in train_on if y == 2])
        return np.array([judge.classify(t) for t in texts])
    return np.array([SnowNLP(t).sentiments for t in texts])


def three_of(probability):
    return np.where(probability >= 0.6, 2, np.where(probability <= 0.4, 0, 1))


def main():
    arguments = argparse.ArgumentParser()
    for name in ("vader", "snownlp", "features", "model", "out"):
        arguments.add_argument(f"--{name}", required=True)
    arguments.add_argument("--cached", help="features of an earlier run")
    args = arguments.parse_args()
    rows = data.rows(args.vader, args.snownlp, pathlib.Path(__file__).parent)
    sets = np.array([row[0] for row in rows])
    y = np.array([row[1] for row in rows])
    held = np.array([row[2] for row in rows])
    texts = [row[3] for row in rows]
    if args.cached:
        x = np.load(args.cached)
    else:
        x = features(args.features, args.model, texts)
    x = x.astype(np.float32)
    weight = np.array([WEIGHTS.get(s, 1.0) for s in sets])
    train = ~held
    xt, yt, wt = x[train], y[train], weight[train]
    fold = folds([t for t, h in zip(texts, held) if not h])
    tried = {c: loss(out_of_fold(xt, yt, wt, fold, c), yt) for c in STRENGTHS}
    strength = min(tried, key=tried.get)
    z = out_of_fold(xt, yt, wt, fold, strength)
    # One temperature, fitted on what each fold had not seen, corrects how sure the head is.
    temperature = min(np.linspace(0.5, 3, 101), key=lambda t: loss(z / t, yt))
    head = Head(strength).fit(xt, yt, wt)
    # Where the head is less sure than this it was right in fewer than six of ten cases.
    p = softmax(z / temperature)
    bounds = np.linspace(0.34, 0.7, 37)
    right = p.argmax(1) == yt
    abstain = next((b for b in bounds if ((p.max(1) >= b) & (p.max(1) < b + 0.05)).any()
                    and right[(p.max(1) >= b) & (p.max(1) < b + 0.05)].mean() >= 0.55), 0.5)
    w, b = head.w / temperature, head.b / temperature
    out = pathlib.Path(args.out)
    packed = [base64.b64encode(np.append(w[c], b[c]).astype("<f4").tobytes()).decode() for c in range(3)]
    (out / "head.json").write_text(json.dumps(dict(labels=data.LABELS, taps=TAPS, abstain_below=round(float(abstain), 2), weights=packed), indent=1) + "\n")
    report(out, rows, x, y, sets, held, texts, w, b, float(abstain), strength, float(temperature), tried)


def report(out, rows, x, y, sets, held, texts, w, b, abstain, strength, temperature, tried):
    lines = []
    say = lambda line="": lines.append(line)
    p = softmax(x @ w.T + b)
    found = p.argmax(1)
    say("| held-out set | texts | classes | accuracy | macro F1 | ECE | abstains | accuracy where it does not | peer | its accuracy | its macro F1 | ahead by |")
    say("|---|---|---|---|---|---|---|---|---|---|---|---|")
    english = [s for s in SETS if s not in ("zh-reviews", "own-zh")]
    v = {}
    index = [i for i in range(len(y)) if held[i] and sets[i] in english]
    compound = vader([texts[i] for i in index])
    for i, c in zip(index, compound):
        v[i] = c
    index = [i for i in range(len(y)) if held[i] and sets[i] not in english]
    chinese_train = [(t, l) for t, l, h, s in zip(texts, y, held, sets) if not h and s in ("zh-reviews", "own-zh") and l != 1]
    shipped = dict(zip(index, snownlp([texts[i] for i in index])))
    fair = dict(zip(index, snownlp([texts[i] for i in index], chinese_train)))
    def line(title, mask, peer, verdict, sides_only):
        i = np.where(mask)[0]
        yy, pp = y[i], p[i]
        ff = np.where(pp[:, 0] > pp[:, 2], 0, 2) if sides_only else found[i]
        theirs = verdict(i)
        sure = pp.max(1) >= abstain
        acc, their = (ff == yy).mean(), (theirs == yy).mean()
        say(f"| {title} | {len(i)} | {2 if sides_only else 3} | {acc:.3f} | {macro_f1(ff, yy):.3f} | {calibration_error(pp, yy):.3f} | {1 - sure.mean():.2f} | {(found[i] == yy)[sure].mean():.3f} | {peer} | {their:.3f} | {macro_f1(theirs, yy):.3f} | {acc - their:+.3f} |")
    of = lambda *names: held & np.isin(sets, names)
    sided = y != 1
    for s in english:
        line(s, of(s), "VADER", lambda i: three(np.array([v[k] for k in i])), False)
    line("English, all", of(*english), "VADER", lambda i: three(np.array([v[k] for k in i])), False)
    line("English, sides only", of(*english) & sided, "VADER", lambda i: np.where(np.array([v[k] for k in i]) >= 0, 2, 0), True)
    for s in ("zh-reviews", "own-zh"):
        line(s, of(s), "SnowNLP as shipped", lambda i: three_of(np.array([shipped[k] for k in i])), False)
        line(s, of(s), "SnowNLP on the same texts", lambda i: three_of(np.array([fair[k] for k in i])), False)
    line("Chinese, sides only", of("zh-reviews", "own-zh") & sided, "SnowNLP as shipped", lambda i: np.where(np.array([shipped[k] for k in i]) >= 0.5, 2, 0), True)
    line("Chinese, sides only", of("zh-reviews", "own-zh") & sided, "SnowNLP on the same texts", lambda i: np.where(np.array([fair[k] for k in i]) >= 0.5, 2, 0), True)
    line("Chinese, all", of("zh-reviews", "own-zh"), "SnowNLP on the same texts", lambda i: three_of(np.array([fair[k] for k in i])), False)
    say()
    for name, mask in (("English", of(*english)), ("Chinese", of("zh-reviews", "own-zh"))):
        table = np.zeros((3, 3), int)
        for i in np.where(mask)[0]:
            table[y[i], found[i]] += 1
        recalls = ", ".join(f"{label} {table[c, c] / max(1, table[c].sum()):.2f} of {table[c].sum()}" for c, label in enumerate(data.LABELS))
        say(f"Recall in {name}: {recalls}.")
    say()
    say(f"Trained on {(~held).sum()} texts, tried on {held.sum()}; C = {strength} by {FOLDS} folds, temperature {temperature:.3f}, names no class below {abstain:.2f}.")
    counts = collections.Counter((s, data.LABELS[l]) for s, l, h in zip(sets, y, held) if not h)
    say("Training texts: " + ", ".join(f"{s} {l} {n}" for (s, l), n in sorted(counts.items())) + ".")
    print("\n".join(lines))
    card = out / "MODEL_CARD.md"
    if card.exists():
        text = card.read_text()
        begin, end = "<!-- measured -->\n", "<!-- end -->"
        card.write_text(text[:text.index(begin) + len(begin)] + "\n".join(lines) + "\n" + text[text.index(end):])


if __name__ == "__main__":
    main()
