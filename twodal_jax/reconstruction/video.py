"""Frames in, frames out: video files through the ffmpeg that comes with imageio-ffmpeg, cameras through OpenCV.

A frame is BGR uint8 [H, W, 3], as it is meant to be seen (a telephone's rotation is applied). One frame is held at
a time, whatever the video's length.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import subprocess
import tempfile
from collections.abc import Iterator

import cv2
import numpy as np

_FALLBACK_RATE = 25.0
# Sound that MP4 holds as it is; other kinds are encoded anew.
_MP4_SOUND = ("aac", "mp3", "ac3")


class VideoError(Exception):
    """A video or camera that cannot be read, or a video that cannot be written; the message names it."""


class VideoReader:
    """The frames of a video file; use it in a `with` statement and iterate over it once.

    Attributes:
      width, height: of the frames. frame_rate: frames a second.
      num_frames: about how many there are, 0 where unknown. sound: the kind of its sound, "" without any.

    Raises:
      VideoError: the file is missing or is no video.
    """

    def __init__(self, path: os.PathLike | str):
        import imageio_ffmpeg

        self.path = pathlib.Path(path)
        if not self.path.is_file():
            raise VideoError(f"{path}: no such video")
        # A file may refer to others (a playlist); none of them over a network.
        local = ["-protocol_whitelist", "file,pipe"]
        self._frames = imageio_ffmpeg.read_frames(self.path.absolute(), pix_fmt="bgr24", input_params=local)
        try:
            about = next(self._frames)
            self.width, self.height = (int(side) for side in about["size"])
        except Exception as error:  # ffmpeg's words, or what did not fit its parser
            raise VideoError(f"{path}: not a video ({_reason(str(error))})") from None
        self.frame_rate = float(about.get("fps") or _FALLBACK_RATE)
        self.num_frames = round(self.frame_rate * float(about.get("duration") or 0.0))
        self.sound = str(about.get("audio_codec") or "")

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_) -> None:
        self._frames.close()

    def __iter__(self) -> Iterator[np.ndarray]:
        shown = 0
        try:
            for data in self._frames:
                yield np.frombuffer(data, np.uint8).reshape(self.height, self.width, 3).copy()
                shown += 1
        except RuntimeError as error:
            raise VideoError(f"{self.path}: unreadable after frame {shown} ({_reason(str(error))})") from None
        if not shown:
            raise VideoError(f"{self.path}: holds no frame that can be read")


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
        self, path: os.PathLike | str, size: tuple[int, int], frame_rate: float,
        sound_of: VideoReader | None = None,
    ):  # fmt: skip
        self.path, self.size = pathlib.Path(path), (int(size[0]), int(size[1]))
        self._temporary = self.path.with_name(f".{self.path.stem}.{os.getpid()}.tmp.mp4")
        self._said = tempfile.TemporaryFile()
        command = _encoder(self.size, frame_rate, sound_of) + [str(self._temporary.absolute())]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._said)

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
        self._said.seek(0)
        return VideoError(f"{self.path}: not written ({_reason(self._said.read().decode(errors='replace'))})")


def _encoder(size: tuple[int, int], frame_rate: float, sound_of: VideoReader | None) -> list[str]:
    """ffmpeg's command line up to the file to write."""
    import imageio_ffmpeg

    width, height = (side + side % 2 for side in size)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", "-f", "rawvideo", "-pix_fmt", "bgr24",
               "-s", f"{width}x{height}", "-r", f"{frame_rate:.6g}", "-i", "-"]  # fmt: skip
    if sound_of is not None and sound_of.sound:
        known = sound_of.sound.split()[0] in _MP4_SOUND
        command += ["-i", str(sound_of.path.absolute()), "-map", "0:v:0", "-map", "1:a:0",
                    "-c:a", "copy" if known else "aac", "-shortest"]  # fmt: skip
    # Players take a picture without a note for BT.709, ffmpeg makes BT.601 of RGB: say both.
    return command + [
        "-vf", "scale=out_color_matrix=bt709:out_range=tv", "-colorspace", "bt709", "-color_primaries", "bt709",
        "-color_trc", "bt709", "-c:v", "libx264", "-preset", "veryfast", "-crf", "18", "-pix_fmt", "yuv420p",
        "-movflags", "+faststart"]  # fmt: skip


def _reason(text: str) -> str:
    """The line of ffmpeg's output that says most."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("===")]
    telling = [line for line in lines if re.search(r"(?i)error|invalid|not found|no space|no such|denied", line)]
    return re.sub(r"^\[[^]]*\]\s*", "", (telling or lines or ["no frames"])[0])
