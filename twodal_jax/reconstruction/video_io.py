"""Frames in, frames out: video files through the ffmpeg that comes with imageio-ffmpeg, cameras through OpenCV.

A frame is BGR uint8 [H, W, 3], as it is meant to be seen (a telephone's rotation is applied). One frame is
held at a time, whatever the video's length.
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
# Sound that MP4 holds as it is; other kinds are encoded anew.
_MP4_SOUND = ("aac", "mp3", "ac3")


class VideoError(Exception):
    """A video or camera that cannot be read, or a video that cannot be written; the message names it."""


class VideoReader:
    """The frames of a video file; use it in a `with` statement and iterate over it once.

    Frames come at a constant rate, so that they stay with the sound: of a video whose rate varies, as telephones
    make them, some are repeated or left out.

    Attributes:
      width, height: of the frames. frame_rate: frames a second.
      num_frames: about how many there are, 0 where unknown. sound: the kind of its sound, "" without any.

    Raises:
      VideoError: the file is missing or is no video.
    """

    def __init__(self, path: os.PathLike | str):
        self.path = pathlib.Path(path)
        if not self.path.is_file():
            raise VideoError(f"{path}: no such video")
        self.frame_rate, seconds, self.sound = _probe(self.path)
        self.num_frames = round(self.frame_rate * seconds)
        # PPM says its size, which is that after the rotation.
        self._process, self._said = _start(
            [
                *_input(self.path),
                "-map",
                "0:v:0",
                "-r",
                f"{self.frame_rate:.6g}",
                "-f",
                "image2pipe",
                "-c:v",
                "ppm",
                "-pix_fmt",
                "rgb24",
                "-",
            ],
            stdout=subprocess.PIPE,
        )
        self._first = self._next_frame()
        if self._first is None:
            self._process.wait()
            reason = _reason(self._said)
            self.__exit__()
            raise VideoError(f"{path}: not a video, or none that can be read ({reason})")
        self.height, self.width = self._first.shape[:2]

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_) -> None:
        self._process.kill()
        self._process.stdout.close()
        self._process.wait()
        self._said.close()

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
    """ffmpeg's input; a file may refer to others (a playlist), but not over a network."""
    return ["-protocol_whitelist", "file,pipe", "-i", str(path.absolute())]


def _start(arguments: list[str], **pipes) -> tuple[subprocess.Popen, IO[bytes]]:
    """ffmpeg at work, and the file with what it complains of."""
    import imageio_ffmpeg

    said = tempfile.TemporaryFile()
    # The package's own functions fork in a way that JAX, which has threads, warns of.
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-y", "-v", "error", *arguments]
    # Ctrl-C is for us to answer: a video being written is ended properly, or not at all.
    pipes = {"stdin": subprocess.DEVNULL, **pipes}
    return subprocess.Popen(command, stderr=said, start_new_session=True, **pipes), said


def _probe(path: pathlib.Path) -> tuple[float, float, str]:
    """Frames a second, length in seconds (0 where unknown) and kind of sound, from what ffmpeg says of a file."""
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
    """The frames of a camera until it is closed; otherwise like `VideoReader`.

    Raises:
      VideoError: there is no such camera.
    """

    def __init__(self, index: int):
        self._camera = cv2.VideoCapture(index)
        if not self._camera.isOpened():
            self._camera.release()
            raise VideoError(f"camera:{index}: cannot be opened; is it connected, and free?")
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
    """Writes an MP4 (H.264, plays in browsers); use it in a `with` statement.

    The file appears when the statement ends without an exception; until then it has a temporary name.

    Args:
      path: to write. size: (width, height) of the frames; an odd one gets one more row or column.
      frame_rate: frames a second. sound_of: a video whose sound is taken along, as far as the frames reach.

    Raises:
      VideoError: it cannot be written (no such folder, a full disk, ...).
    """

    def __init__(
        self, path: os.PathLike | str, size: tuple[int, int], frame_rate: float, sound_of: VideoReader | None = None
    ):
        self.path, self.size = pathlib.Path(path), (int(size[0]), int(size[1]))
        self._temporary = self.path.with_name(f".{self.path.stem}.{os.getpid()}.tmp.mp4")
        self._process, self._said = _start(
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
        except OSError:  # it has ended already, and has said why
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
            self._said.close()

    def _failure(self) -> VideoError:
        return VideoError(f"{self.path}: not written ({_reason(self._said)})")


def _encoder(size: tuple[int, int], frame_rate: float, sound_of: VideoReader | None) -> list[str]:
    """ffmpeg's arguments up to the file to write."""
    width, height = (side + side % 2 for side in size)
    command = [
        "-f",
        "rawvideo",
        "-pix_fmt",
        "bgr24",
        "-s",
        f"{width}x{height}",
        "-r",
        f"{frame_rate:.6g}",
        "-i",
        "pipe:0",
    ]
    if sound_of is not None and sound_of.sound:
        known = sound_of.sound in _MP4_SOUND
        command += [
            *_input(sound_of.path),
            "-map",
            "0:v:0",
            "-map",
            "1:a:0",
            "-c:a",
            "copy" if known else "aac",
            "-shortest",
        ]
    # Players take a picture without a note for BT.709, ffmpeg makes BT.601 of RGB: say both.
    return command + [
        "-vf",
        "scale=out_color_matrix=bt709:out_range=tv",
        "-colorspace",
        "bt709",
        "-color_primaries",
        "bt709",
        "-color_trc",
        "bt709",
        "-c:v",
        "libx264",
        "-preset",
        "veryfast",
        "-crf",
        "18",
        "-pix_fmt",
        "yuv420p",
        "-movflags",
        "+faststart",
    ]


def _reason(said: IO[bytes]) -> str:
    """The line of ffmpeg's complaints that says most."""
    said.seek(0)
    lines = [line.strip() for line in said.read().decode(errors="replace").splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"(?i)error|invalid|not found|no space|no such|denied", line)]
    return re.sub(r"^\[[^]]*\]\s*", "", (telling or lines or ["no frames"])[0])
