"""Zip archives whose directory may lie."""

import io
import struct
import zipfile
import zlib

import numpy as np

from ctxseg.models.weights.tensor import Damaged, File, Scratch, short

# Longest directory, in bytes. An entry has 46 bytes at least, and takes about 900 bytes of memory.
LONGEST_DIRECTORY = 1 << 21
# What is decompressed at once, in bytes.
CHUNK = 1 << 20


class Archive:
    """The members of a zip archive, uncompressed or deflated.

    Attributes:
        file: the archive.
        names: of its members, in the archive's order.

    Raises:
        Damaged: it is no zip archive, or its directory is damaged.
    """

    def __init__(self, file: File):
        self.file = file
        try:
            self._zip = zipfile.ZipFile(_Bounded(file))  # type: ignore[arg-type]
        except _ERRORS as e:
            raise Damaged("its zip archive is damaged, or it ends too early: copy or download it again") from e
        self._members = {info.filename: info for info in self._zip.infolist()}
        self.names = list(self._members)
        if len(self._members) != len(self._zip.infolist()):
            raise Damaged("two members of its zip archive have the same name")

    def size(self, name: str) -> int:
        """Bytes of a member without compression, as the directory has it."""
        return self._members[name].file_size

    def position(self, name: str) -> int | None:
        """Where in the archive the contents of a member start; None if it is compressed. Damaged: its sizes differ."""
        info = self._members[name]
        if info.flag_bits & 1:
            raise Damaged(f"{short(name)} is encrypted")
        if info.compress_type == zipfile.ZIP_DEFLATED:
            return None
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise Damaged(f"{short(name)} is compressed by an unknown method")
        header = self.file.read(info.header_offset, 30)
        if header[:4] != b"PK\x03\x04":
            raise Damaged(f"{short(name)} is not where the directory of the zip archive has it")
        length, extra = struct.unpack("<HH", header[26:30])
        return info.header_offset + 30 + length + extra

    def read(self, name: str, start: int, count: int) -> bytes:
        """`count` bytes of a member, or fewer if it ends before, after `start` bytes of it."""
        count = max(0, min(count, self.size(name) - start))
        position = self.position(name)
        if position is not None:
            return self.file.read(position + start, count)
        array = np.empty(count, np.uint8)
        self._inflate(name, start, array)
        return array.tobytes()

    def read_array(self, name: str, start: int, count: int, dtype: np.dtype, scratch: Scratch) -> np.ndarray:
        """`count` numbers of a member, after `start` bytes of it, `[count]`. Damaged: there are fewer."""
        position = self.position(name)
        if position is not None:
            return self.file.read_array(position + start, count, dtype, scratch)
        array = scratch.array(count, dtype)
        self._inflate(name, start, array.view(np.uint8))
        return array

    def unpack(self, name: str) -> io.BytesIO:
        """The contents of a member. Their size is that of the directory at most; check it before."""
        contents = io.BytesIO()
        try:
            with self._zip.open(name) as member:
                while chunk := member.read(CHUNK):
                    contents.write(chunk)
        except _ERRORS as e:
            raise Damaged(f"{short(name)} in its zip archive is damaged") from e
        return contents

    def _inflate(self, name, start, array):
        """Fills `array`, uint8. zipfile decompresses as much as it is asked for, whatever size the directory has."""
        try:
            with self._zip.open(name) as member:
                while start:
                    if not (skipped := len(member.read(min(start, CHUNK)))):
                        raise Damaged(f"{short(name)} ends too early")
                    start -= skipped
                for i in range(0, len(array), CHUNK):
                    part = array[i : i + CHUNK]
                    if member.readinto(part) != len(part):
                        raise Damaged(f"{short(name)} ends too early")
        except _ERRORS as e:
            raise Damaged(f"{short(name)} in its zip archive is damaged") from e


# What zipfile raises for damaged archives.
_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    NotImplementedError,
    RuntimeError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    OverflowError,
    OSError,
)


class _Bounded(io.RawIOBase):
    """A file as zipfile reads it: it reads the whole directory at once, however long it says that it is."""

    def __init__(self, file: File):
        self._file, self._position = file, 0

    def seekable(self):
        return True

    def seek(self, offset, whence=io.SEEK_SET):
        self._position = offset + (0, self._position, self._file.size)[whence]
        if self._position < 0:
            raise OSError("a negative position")  # zipfile expects it of archives that are short
        return self._position

    def tell(self):
        return self._position

    def read(self, count=-1):
        left = max(0, self._file.size - self._position)
        count = left if count < 0 else min(count, left)
        if count > LONGEST_DIRECTORY:
            raise Damaged("the directory of its zip archive is too long")
        data = self._file.read(self._position, count)
        self._position += count
        return data
