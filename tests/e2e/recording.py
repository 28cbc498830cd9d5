"""Somebody who says a sentence, as a microphone and as a messenger has it.

usage: recording.py ARCHIVE FOLDER
Writes said.wav and said.ogg (Opus, as voice messages are) into FOLDER. ARCHIVE is a package under the MIT
licence that holds recordings of people; in this one they say
"Some call me nature. Others call me Mother Nature."
"""

import sys
import zipfile
from pathlib import Path

import av

MEMBER = "f5_tts/infer/examples/basic/basic_ref_en.wav"


def main():
    archive, folder = Path(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    wav, ogg = folder / "said.wav", folder / "said.ogg"
    wav.write_bytes(zipfile.ZipFile(archive).read(MEMBER))
    with av.open(str(wav)) as source, av.open(str(ogg), "w", format="ogg") as target:
        stream = target.add_stream("libopus", rate=48_000, layout="mono")
        stream.bit_rate = 32_000
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=48_000)
        for frame in [*source.decode(audio=0), None]:
            for piece in resampler.resample(frame):
                target.mux(stream.encode(piece))
        target.mux(stream.encode(None))


if __name__ == "__main__":
    main()
