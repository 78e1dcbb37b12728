"""The bytes of one variable of a MATLAB file, plain or compressed, never more than it has; see `mat_file`."""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO

from twodal_jax.outside_files import BrokenFileError

TAG = {order: struct.Struct(f"{order}II") for order in "<>"}
_BLOCK = 2**16
_MOST_PACKED = 1032  # zlib never packs better


class Stream:
    """The bytes of one variable, `left` of them, read through a buffer."""

    def __init__(self, file: BinaryIO, length: int, order: str):
        self.left, self.order, self._file = length, order, file
        self._unread = length
        self._ready, self._at = b"", 0

    def tag(self) -> tuple[int, int, bytes | None]:
        """(type, bytes of data, the data where they stand within the tag) of the next element."""
        at = self._need(8)
        kind, length = TAG[self.order].unpack_from(self._ready, at)
        if kind >> 16 == 0:
            return kind, length, None
        kind, length = kind & 0xFFFF, kind >> 16
        if length > 4:
            raise BrokenFileError("a small element that is not small")
        return kind, length, self._ready[at + 4 : at + 4 + length]

    def small(self, kinds: tuple[int, int], most: int) -> bytes:
        """The data of the next element, which is of one of `kinds` and has `most` bytes at most."""
        kind, length, data = self.tag()
        if kind not in kinds or length > most:
            raise BrokenFileError("a variable's description has another form")
        if data is None:
            at = self._need(length + -length % 8)
            data = self._ready[at : at + length]
        return data

    def read(self, count: int) -> bytes:
        """The next `count` bytes, not less."""
        at = self._need(count)
        return self._ready[at : at + count]

    def fill(self, target: memoryview) -> None:
        """The next bytes into `target`."""
        self._take(len(target))
        at = min(len(self._ready) - self._at, len(target))
        target[:at] = self._ready[self._at : self._at + at]
        self._at += at
        while at < len(target):
            more = self._more(min(16 * _BLOCK, len(target) - at))
            target[at : at + len(more)] = more
            at += len(more)

    def finish(self) -> None:
        """Called behind the last byte wanted."""

    def _need(self, count: int) -> int:
        """Takes `count` bytes: where they stand in the buffer."""
        self._take(count)
        while len(self._ready) - self._at < count:
            self._ready, self._at = self._ready[self._at :] + self._more(max(_BLOCK, count)), 0
        self._at += count
        return self._at - count

    def _take(self, count: int) -> None:
        if count > self.left:
            raise BrokenFileError("a part longer than the whole")
        self.left -= count

    def _more(self, most: int) -> bytes:
        """1 to `most` bytes."""
        data = self._file.read(min(most, self._unread))
        if not data:
            raise BrokenFileError("ends early")
        self._unread -= len(data)
        return data


class Unpacked(Stream):
    """The bytes of one compressed variable, unpacked as they are needed."""

    def __init__(self, file: BinaryIO, length: int, order: str):
        super().__init__(file, length, order)
        self.left = 8  # the tag inside says how many more
        self._inflate, self._most = zlib.decompressobj(), _MOST_PACKED * length

    def _take(self, count: int) -> None:
        if count > self._most:
            raise BrokenFileError("claims to unpack to more than zlib can pack")
        super()._take(count)

    def _more(self, most: int) -> bytes:
        data = self._unpack(most)
        if not data:
            raise BrokenFileError("ends early")
        return data

    def _unpack(self, most: int) -> bytes:
        """Up to `most` bytes; none at the end."""
        while not self._inflate.eof:
            source = self._inflate.unconsumed_tail or self._file.read(min(self._unread, _BLOCK))
            if source is not self._inflate.unconsumed_tail:
                self._unread -= len(source)
            data = self._inflate.decompress(source, most)
            if data or not source:
                return data
        return b""

    def finish(self) -> None:
        """Lets zlib compare its checksum with what it has unpacked."""
        rest = len(self._ready) - self._at + len(self._unpack(_BLOCK))
        if rest >= 8 or not self._inflate.eof:
            raise BrokenFileError("damaged, or longer than it says")
