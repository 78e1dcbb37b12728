"""Readers and a writer of video frames: files through the ffmpeg of imageio-ffmpeg, cameras through OpenCV.

A frame is BGR uint8 [H, W, 3], upright (a phone's rotation is applied). One frame at a time is in memory.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import subprocess
import tempfile
from collections.abc import Iterator
from typing import IO

import cv2
import numpy as np

_FALLBACK_RATE = 25.0
# Audio codecs that MP4 can hold; others are re-encoded.
_MP4_SOUND = ("aac", "mp3", "ac3")


class VideoError(Exception):
    """A video or camera cannot be read, or a video cannot be written; the message names it."""


class VideoReader:
    """The frames of a video file; use it in a `with` statement and iterate over it once.

    Frames have a constant rate, in step with the sound: of a video with a varying rate, as from phones, some frames are
    repeated or dropped.

    Attributes:
      width, height: of the frames.
      frame_rate: frames per second.
      num_frames: approximate, 0 if unknown.
      sound: the audio codec, "" without sound.

    Raises:
      VideoError: the file is missing or not a video.
    """

    def __init__(self, path: os.PathLike | str):
        self.path = pathlib.Path(path)
        if not self.path.is_file():
            raise VideoError(f"{path}: no such video")
        self.frame_rate, seconds, self.sound = _probe(self.path)
        self.num_frames = round(self.frame_rate * seconds)
        # PPM contains the size after the rotation.
        rate = f"{self.frame_rate:.6g}"
        self._process, self._errors = _start(
            [*_input(self.path), *f"-map 0:v:0 -r {rate} -f image2pipe -c:v ppm -pix_fmt rgb24 -".split()],
            stdout=subprocess.PIPE,
        )
        self._first = self._next_frame()
        if self._first is None:
            self._process.wait()
            reason = _reason(self._errors)
            self.__exit__()
            raise VideoError(f"{path}: not a video, or not a readable one ({reason})")
        self.height, self.width = self._first.shape[:2]

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_) -> None:
        self._process.kill()
        self._process.stdout.close()
        self._process.wait()
        self._errors.close()

    def __iter__(self) -> Iterator[np.ndarray]:
        frame = self._first
        while frame is not None:
            yield frame
            frame = self._next_frame()

    def _next_frame(self) -> np.ndarray | None:
        """BGR uint8 [H, W, 3]; None at the end."""
        pipe = self._process.stdout
        header = [pipe.readline() for _ in range(3)]
        if header[0] != b"P6\n":
            return None
        width, height = map(int, header[1].split())
        data = pipe.read(height * width * 3)
        if len(data) < height * width * 3:
            return None
        return np.ascontiguousarray(np.frombuffer(data, np.uint8).reshape(height, width, 3)[..., ::-1])


def _input(path: pathlib.Path) -> list[str]:
    """Input arguments of ffmpeg; a file such as a playlist may refer to other files, but not over a network."""
    return ["-protocol_whitelist", "file,pipe", "-i", str(path.absolute())]


def _start(arguments: list[str], **pipes) -> tuple[subprocess.Popen, IO[bytes]]:
    """Starts ffmpeg; returns the process and the file of its error messages."""
    import imageio_ffmpeg

    errors = tempfile.TemporaryFile()
    # The package's own functions fork, which JAX warns about because it has threads.
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-y", "-v", "error", *arguments]
    # A new session keeps Ctrl-C from ffmpeg: this program completes or deletes the video.
    pipes = {"stdin": subprocess.DEVNULL, **pipes}
    return subprocess.Popen(command, stderr=errors, start_new_session=True, **pipes), errors


def _probe(path: pathlib.Path) -> tuple[float, float, str]:
    """Frames per second, length in seconds (0 if unknown) and audio codec, from ffmpeg's description of a file."""
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-hide_banner", *_input(path)]
    text = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL).stderr.decode(errors="replace")
    video = re.search(r"Stream #0.*Video:.*", text)
    rate = video and re.search(r"([\d.]+)(k?) (?:fps|tbr)", video[0])
    length = re.search(r"Duration: (\d+):(\d+):([\d.]+)", text)
    sound = re.search(r"Stream #0.*Audio: (\w+)", text)
    frame_rate = float(rate[1]) * (1000 if rate[2] else 1) if rate else 0.0
    seconds = sum(float(part) * unit for part, unit in zip(length.groups(), (3600, 60, 1))) if length else 0.0
    return frame_rate if 0 < frame_rate <= 1000 else _FALLBACK_RATE, seconds, sound[1] if sound else ""


class CameraReader:
    """The frames of a camera until it is closed; otherwise as `VideoReader`.

    Raises:
      VideoError: there is no such camera.
    """

    def __init__(self, index: int):
        self._camera = cv2.VideoCapture(index)
        if not self._camera.isOpened():
            self._camera.release()
            raise VideoError(f"camera:{index}: cannot be opened; check that it is connected and not in use")
        self.width = int(self._camera.get(cv2.CAP_PROP_FRAME_WIDTH))
        self.height = int(self._camera.get(cv2.CAP_PROP_FRAME_HEIGHT))
        self.frame_rate = float(self._camera.get(cv2.CAP_PROP_FPS)) or _FALLBACK_RATE
        self.num_frames, self.sound = 0, ""

    def __enter__(self) -> "CameraReader":
        return self

    def __exit__(self, *_) -> None:
        self._camera.release()

    def __iter__(self) -> Iterator[np.ndarray]:
        while True:
            there, frame = self._camera.read()
            if not there:
                return
            yield frame


class VideoWriter:
    """Writer of an MP4 (H.264, plays in browsers); use it in a `with` statement.

    The file has a temporary name until the statement ends without an exception.

    Args:
      path: to write.
      size: (width, height) of the frames; an odd one gets one more row or column.
      frame_rate: frames per second.
      sound_of: a video whose sound is copied, as far as the frames reach.

    Raises:
      VideoError: it cannot be written (no such folder, a full disk, ...).
    """

    def __init__(
        self, path: os.PathLike | str, size: tuple[int, int], frame_rate: float, sound_of: VideoReader | None = None
    ):
        self.path, self.size = pathlib.Path(path), (int(size[0]), int(size[1]))
        self._temporary = self.path.with_name(f".{self.path.stem}.{os.getpid()}.tmp.mp4")
        self._process, self._errors = _start(
            [*_encoder(self.size, frame_rate, sound_of), str(self._temporary.absolute())], stdin=subprocess.PIPE
        )

    def write(self, frame: np.ndarray) -> None:
        """Appends BGR uint8 [H, W, 3] of the size given."""
        width, height = self.size
        if frame.dtype != np.uint8 or frame.shape != (height, width, 3):
            raise ValueError(f"Expected a frame uint8 {(height, width, 3)}, got {frame.dtype} {frame.shape}.")
        frame = cv2.copyMakeBorder(frame, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        try:
            self._process.stdin.write(np.ascontiguousarray(frame).data)
        except OSError:  # ffmpeg has ended; its error messages give the reason
            self._process.wait()
            raise self._failure() from None

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind, *_) -> None:
        try:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            if kind is not None:
                self._process.kill()
            self._process.wait()
            if kind is None:
                if self._process.returncode or not self._temporary.is_file():
                    raise self._failure()
                os.replace(self._temporary, self.path)
        except OSError as error:
            raise VideoError(f"{self.path}: not written: {error.strerror}") from None
        finally:
            self._temporary.unlink(missing_ok=True)
            self._errors.close()

    def _failure(self) -> VideoError:
        return VideoError(f"{self.path}: not written ({_reason(self._errors)})")


def _encoder(size: tuple[int, int], frame_rate: float, sound_of: VideoReader | None) -> list[str]:
    """Arguments of ffmpeg up to the file to write."""
    width, height = (side + side % 2 for side in size)
    command = f"-f rawvideo -pix_fmt bgr24 -s {width}x{height} -r {frame_rate:.6g} -i pipe:0".split()
    if sound_of is not None and sound_of.sound:
        codec = "copy" if sound_of.sound in _MP4_SOUND else "aac"
        command += [*_input(sound_of.path), *f"-map 0:v:0 -map 1:a:0 -c:a {codec} -shortest".split()]
    # Players assume BT.709 for a video without a tag, ffmpeg converts RGB to BT.601; both are set explicitly.
    colours = "-vf scale=out_color_matrix=bt709:out_range=tv -colorspace bt709 -color_primaries bt709 -color_trc bt709"
    codec = "-c:v libx264 -preset veryfast -crf 18 -pix_fmt yuv420p -movflags +faststart"
    return [*command, *colours.split(), *codec.split()]


def _reason(errors: IO[bytes]) -> str:
    """The most informative line of ffmpeg's error messages."""
    errors.seek(0)
    lines = [line.strip() for line in errors.read().decode(errors="replace").splitlines() if line.strip()]
    informative = [line for line in lines if re.search(r"(?i)error|invalid|not found|no space|no such|denied", line)]
    return re.sub(r"^\[[^]]*\]\s*", "", (informative or lines or ["no frames"])[0])
