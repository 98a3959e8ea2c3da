"""Checks with PyAV and Pillow that every song in an archive decodes completely and that every cover opens.

    media.py ARCHIVE

Videos are skipped. A file of any other type is an error, for example a leftover temporary file. The script reports the
first bad file and exits with status 1.
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

# A file is silent if all its samples are below this threshold. Full scale is 32768.
QUIET = 100

# FFmpeg logs this message for every file that does not store its duration, even if the file is valid.
HARMLESS = "Estimating duration from bitrate"


class Bad(Exception):
    pass


def check(condition, *words):
    if not condition:
        raise Bad(" ".join(str(word) for word in words))


def samples(path):
    """Yields the samples of the single audio stream in a file, as 16-bit mono."""
    with av.open(str(path)) as container:
        check(len(container.streams.audio) == 1, len(container.streams.audio), "audio streams")
        # The decoder must report every error instead of concealing it.
        container.streams.audio[0].codec_context.options = {"err_detect": "bitstream+buffer+explode"}
        resampler = av.AudioResampler(format="s16", layout="mono")
        for frame in container.decode(audio=0):
            check(not frame.is_corrupt, "a corrupt frame at", frame.time)
            for resampled in resampler.resample(frame):
                # The plane may contain padding after the samples.
                yield bytes(resampled.planes[0])[:2 * resampled.samples]


def judge_audio(path):
    """Checks an audio file, and returns a digest of its samples."""
    digest, count, loudest = hashlib.sha256(), 0, 0
    with av.logging.Capture(local=False) as said:
        for some in samples(path):
            digest.update(some)
            count += len(some) // 2
            loudest = max(loudest, max(map(abs, memoryview(some).cast("h")), default=0))
    for level, _, message in said:
        check(level > av.logging.WARNING or message.startswith(HARMLESS), message.strip())
    check(count > 0, "has no samples")
    check(loudest >= QUIET, "is silent")
    return digest.digest()


def judge_image(path):
    with PIL.Image.open(path) as image:
        image.load()
        check(min(image.size) > 0, "has a width or height of zero")


def judge(media):
    heard, images, videos = {}, 0, 0
    for path in sorted(path for path in media.rglob("*") if path.is_file()):
        try:
            if path.suffix in AUDIO:
                sound = judge_audio(path)
                check(sound not in heard, "has the same audio as", heard.get(sound))
                heard[sound] = path
            elif path.suffix in IMAGE:
                judge_image(path)
                images += 1
            else:
                check(path.suffix in VIDEO, "is not an audio, image or video file")
                videos += 1
        except (Bad, av.FFmpegError, OSError, SyntaxError, ValueError) as error:
            raise Bad(f"{path}: {error}") from error
    check(heard, media, "contains no audio")
    check(images, media, "contains no images")
    print(f"{len(heard)} audio files, {images} valid images; {videos} videos skipped")


if __name__ == "__main__":
    # Makes the decoders log all warnings.
    av.logging.set_level(av.logging.WARNING)
    try:
        judge(pathlib.Path(sys.argv[1]) / "media")
    except Bad as bad:
        sys.exit(f"bad: {bad}")
