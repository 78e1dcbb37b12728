"""Readers and a writer of video frames: files through the ffmpeg of imageio-ffmpeg, cameras through OpenCV.

A frame is BGR uint8 [H, W, 3], upright (a phone's rotation is applied), and has the time at which the file shows it.
One frame at a time is in memory.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from typing import IO

import cv2
import numpy as np

_FALLBACK_RATE = 25.0
_TICK = 1e-5  # seconds; the unit of times that are written
_DAMAGE = re.compile(rb"\[in#0[^\]]*\] \[error\] (.*)")  # of the reader of the file, not of a decoder
_FRAME_TIME = re.compile(rb"showinfo.* pts_time:\s*(\S+)")
# Audio codecs that MP4 can hold; others are re-encoded.
_MP4_SOUND = ("aac", "mp3", "ac3")


class VideoError(Exception):
    """A video or camera cannot be read, or a video cannot be written; the message names it."""


class VideoReader:
    """The frames of a video file; use it in a `with` statement and iterate over it once.

    All frames of the file are read, once each, at their own times: many phones record at a varying rate.

    Attributes:
      width, height: of the frames.
      frame_rate: frames per second, the mean.
      num_frames: approximate, 0 if unknown.
      sound: the audio codec, "" without sound.
      start: the time of the first frame in the file, in seconds after the start of its sound and picture.
      time: of the last frame, in seconds after the first.
      damage: after the last frame, why the file ends early; "" where it does not.

    Raises:
      VideoError: the file is missing or not a video.
    """

    def __init__(self, path: os.PathLike | str):
        self.path = pathlib.Path(path)
        if not self.path.is_file():
            raise VideoError(f"{path}: no such video")
        self.frame_rate, seconds, self.sound = _probe(self.path)
        self.num_frames = round(self.frame_rate * seconds)
        # PPM contains the size after the rotation; `showinfo` writes a line with its time before each frame. The map is
        # of pictures that move: a song's cover is none.
        arguments = "-map 0:V:0 -vf showinfo=checksum=0 -fps_mode passthrough -f image2pipe -c:v ppm -pix_fmt rgb24 -"
        self._process, self._errors = _start(
            ["-v", "level+info", "-nostats", "-hide_banner", *_input(self.path), *arguments.split()],
            stdout=subprocess.PIPE,
        )
        self._seconds, self._unread, self._offset = [], b"", 0
        self._count, self.start, self.time, self.damage = 0, 0.0, 0.0, ""
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
        self._process.wait()
        self._read_messages()

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
        self._advance_time()
        return cv2.cvtColor(np.frombuffer(data, np.uint8).reshape(height, width, 3), cv2.COLOR_RGB2BGR)

    def _advance_time(self) -> None:
        """Sets the time of the next frame; one without a time follows the previous one at the mean rate."""
        self._read_messages()
        known = self._count < len(self._seconds) and np.isfinite(self._seconds[self._count])
        if self._count == 0:
            self.start = self._seconds[0] if known else 0.0
        else:
            follows = self.time + 1 / self.frame_rate
            self.time = max(self._seconds[self._count] - self.start, self.time + _TICK) if known else follows
        self._count += 1

    def _read_messages(self) -> None:
        """Reads ffmpeg's new messages: the times of further frames, and damage of the file."""
        while block := os.pread(self._errors.fileno(), 1 << 16, self._offset):
            self._offset += len(block)
            lines = (self._unread + block).split(b"\n")
            self._unread = lines.pop()
            self._seconds += [_seconds(found[1]) for line in lines if (found := _FRAME_TIME.search(line))]
            damage = next((found[1] for line in lines if (found := _DAMAGE.search(line))), b"")
            self.damage = self.damage or damage.decode(errors="replace")


def _seconds(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:  # NOPTS
        return float("nan")


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
        self.num_frames, self.sound, self.time = 0, "", 0.0

    def __enter__(self) -> "CameraReader":
        return self

    def __exit__(self, *_) -> None:
        self._camera.release()

    def __iter__(self) -> Iterator[np.ndarray]:
        began = None
        while True:
            there, frame = self._camera.read()
            if not there:
                return
            began = time.monotonic() if began is None else began
            self.time = time.monotonic() - began
            yield frame


class VideoWriter:
    """Writer of an MP4 (H.264, plays in browsers); use it in a `with` statement.

    The file has a temporary name until the statement ends without an exception.

    Args:
      path: to write.
      size: (width, height) of the frames; an odd one gets one more row or column.
      frame_rate: frames per second, of frames that are written without a time.
      sound_of: a video whose sound is copied, as far as the frames reach; where it ends earlier, the rest is silent.

    Raises:
      VideoError: it cannot be written (no such folder, a full disk, ...), or only without its sound.
    """

    def __init__(
        self, path: os.PathLike | str, size: tuple[int, int], frame_rate: float, sound_of: VideoReader | None = None
    ):
        self.path, self.size = pathlib.Path(path), (int(size[0]), int(size[1]))
        self._rate, self._sound_of, self._time = frame_rate, sound_of, None
        self._temporary, self._with_sound = (
            self.path.with_name(f".{self.path.stem}.{os.getpid()}.{kind}.mp4") for kind in ("tmp", "sound")
        )
        self._process, self._errors = _start([*_ENCODE, str(self._temporary.absolute())], stdin=subprocess.PIPE)

    def write(self, frame: np.ndarray, time: float | None = None) -> None:
        """Appends BGR uint8 [H, W, 3] of the size given; `time`: seconds after the first frame."""
        width, height = self.size
        if frame.dtype != np.uint8 or frame.shape != (height, width, 3):
            raise ValueError(f"Expected a frame uint8 {(height, width, 3)}, got {frame.dtype} {frame.shape}.")
        frame = cv2.copyMakeBorder(frame, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        first = self._time is None
        after = 0.0 if first else self._time + 1 / self._rate
        self._time = after if time is None or first else max(time, self._time + _TICK)
        try:
            if first:
                self._process.stdin.write(_matroska_header(*frame.shape[1::-1]))
            self._process.stdin.write(_matroska_frame(round(self._time / _TICK), frame.nbytes))
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
                lost = self._add_sound()
                os.replace(self._temporary, self.path)
                if lost:
                    raise VideoError(f"{self.path}: written without its sound ({lost})")
        except OSError as error:
            raise VideoError(f"{self.path}: not written: {error.strerror}") from None
        finally:
            self._temporary.unlink(missing_ok=True)
            self._with_sound.unlink(missing_ok=True)
            self._errors.close()

    def _add_sound(self) -> str:
        """Adds the sound to the temporary file; returns the reason where that fails, and leaves the file as it is."""
        if self._sound_of is None or not self._sound_of.sound:
            return ""
        codec = "copy" if self._sound_of.sound in _MP4_SOUND else "aac"
        part = ["-ss", f"{self._sound_of.start:.6f}"] if self._sound_of.start > 0 else []
        part += ["-t", f"{self._time + 1 / self._rate:.6f}"]
        streams = f"-map 0:v:0 -map 1:a:0 -c:v copy -c:a {codec} -movflags +faststart".split()
        source = [*_input(self._temporary), *part, *_input(self._sound_of.path)]
        process, errors = _start([*source, *streams, str(self._with_sound.absolute())])
        with errors:
            if process.wait() or not self._with_sound.is_file():
                return _reason(errors)
        os.replace(self._with_sound, self._temporary)
        return ""

    def _failure(self) -> VideoError:
        return VideoError(f"{self.path}: not written ({_reason(self._errors)})")


# Frames come as Matroska, because raw video has no times. Players assume BT.709 for a video without a tag, ffmpeg
# converts RGB to BT.601; both are set explicitly.
_ENCODE = (
    "-f matroska -i pipe:0 -fps_mode passthrough -enc_time_base 1:90000 -video_track_timescale 90000"
    " -vf scale=out_color_matrix=bt709:out_range=tv -colorspace bt709 -color_primaries bt709 -color_trc bt709"
    " -c:v libx264 -preset veryfast -crf 18 -pix_fmt yuv420p -movflags +faststart"
).split()


def _element(name: str, content: bytes) -> bytes:
    """An element of Matroska (RFC 9559): its name in hexadecimal digits, the length, the content."""
    return bytes.fromhex(name) + (len(content) | 1 << 56).to_bytes(8, "big") + content


def _number(name: str, value: int) -> bytes:
    return _element(name, value.to_bytes(8, "big"))


def _matroska_header(width: int, height: int) -> bytes:
    """The start of a stream with one track of uncompressed BGR frames; the unit of times is `_TICK`."""
    video = _number("B0", width) + _number("BA", height) + _element("2EB524", b"BGR\x18")
    track = _number("D7", 1) + _number("73C5", 1) + _number("83", 1) + _element("86", b"V_UNCOMPRESSED")
    info = _element("1549A966", _number("2AD7B1", round(_TICK * 1e9)))
    tracks = _element("1654AE6B", _element("AE", track + _element("E0", video)))
    return (
        _element("1A45DFA3", _element("4282", b"matroska")) + bytes.fromhex("1853806701FFFFFFFFFFFFFF") + info + tracks
    )


def _matroska_frame(ticks: int, size: int) -> bytes:
    """The start of a cluster of one frame, which `size` bytes follow."""
    stamp, head = _number("E7", ticks), b"\x81\x00\x00\x80"  # track 1, at the cluster's time, a key frame
    block = bytes.fromhex("A3") + (size + len(head) | 1 << 56).to_bytes(8, "big") + head
    length = len(stamp) + len(block) + size
    return bytes.fromhex("1F43B675") + (length | 1 << 56).to_bytes(8, "big") + stamp + block


def _reason(errors: IO[bytes]) -> str:
    """The most informative line of ffmpeg's error messages."""
    errors.seek(0)
    lines = [line.strip() for line in errors.read().decode(errors="replace").splitlines() if line.strip()]
    if any("matches no streams" in line or "option 'map'" in line for line in lines):
        return "it has no moving picture"
    informative = [line for line in lines if re.search(r"(?i)error|invalid|not found|no space|no such|denied", line)]
    return re.sub(r"^(\[[^]]*\]\s*)+", "", (informative or lines or ["no frames"])[0])
