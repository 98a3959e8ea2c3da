"""Judges the media of an archive with PyAV and Pillow: every song plays to its end, every cover opens.

    media.py ARCHIVE

Videos are passed over; any other file, a leftover included, is a bad one. Exits with 1 and names the
first bad file.
"""

import hashlib
import pathlib
import sys

import av
import av.logging
import PIL.Image

AUDIO = {".aac", ".flac", ".m4a", ".mp3", ".ogg", ".opus", ".wav"}
IMAGE = {".avif", ".gif", ".jpeg", ".jpg", ".png", ".webp"}
VIDEO = {".mov", ".mp4", ".webm"}

# Of 32768; a file whose samples are all quieter than this plays nothing.
QUIET = 100

# What is said of every song that does not say how long it is, the best ones included.
HARMLESS = "Estimating duration from bitrate"


class Bad(Exception):
    pass


def check(condition, *words):
    if not condition:
        raise Bad(" ".join(str(word) for word in words))


def samples(path):
    """All samples of a file's only audio stream, as 16 bits, mono."""
    with av.open(str(path)) as container:
        check(len(container.streams.audio) == 1, len(container.streams.audio), "audio streams")
        # Nothing is to be smoothed over.
        container.streams.audio[0].codec_context.options = {"err_detect": "bitstream+buffer+explode"}
        resampler = av.AudioResampler(format="s16", layout="mono")
        for frame in container.decode(audio=0):
            check(not frame.is_corrupt, "a corrupt frame at", frame.time)
            for resampled in resampler.resample(frame):
                # Without what the plane holds beyond its samples.
                yield bytes(resampled.planes[0])[:2 * resampled.samples]


def judge_audio(path):
    """What the file sounds like: a digest of its samples."""
    digest, count, loudest = hashlib.sha256(), 0, 0
    with av.logging.Capture(local=False) as said:
        for some in samples(path):
            digest.update(some)
            count += len(some) // 2
            loudest = max(loudest, max(map(abs, memoryview(some).cast("h")), default=0))
    for level, _, message in said:
        check(level > av.logging.WARNING or message.startswith(HARMLESS), message.strip())
    check(count > 0, "lasts no time")
    check(loudest >= QUIET, "is silent")
    return digest.digest()


def judge_image(path):
    with PIL.Image.open(path) as image:
        image.load()
        check(min(image.size) > 0, "has no size")


def judge(media):
    heard, images, videos = {}, 0, 0
    for path in sorted(path for path in media.rglob("*") if path.is_file()):
        try:
            if path.suffix in AUDIO:
                sound = judge_audio(path)
                check(sound not in heard, "sounds like", heard.get(sound))
                heard[sound] = path
            elif path.suffix in IMAGE:
                judge_image(path)
                images += 1
            else:
                check(path.suffix in VIDEO, "is not audio, an image or video")
                videos += 1
        except (Bad, av.FFmpegError, OSError, SyntaxError, ValueError) as error:
            raise Bad(f"{path}: {error}") from error
    check(heard, media, "holds no audio")
    check(images, media, "holds no images")
    print(f"{len(heard)} audio files, {images} images as they should be; {videos} videos passed over")


if __name__ == "__main__":
    # Whatever the decoders say is to be heard.
    av.logging.set_level(av.logging.WARNING)
    try:
        judge(pathlib.Path(sys.argv[1]) / "media")
    except Bad as bad:
        sys.exit(f"bad: {bad}")
