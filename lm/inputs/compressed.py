"""What a file is, by its first bytes, and the plain bytes of one that is compressed: as far as it is whole."""

import bz2
import io
import lzma
import zlib
from collections.abc import Callable
from typing import IO, Any, Protocol

# A file of a few kilobytes may hold this much, however well it was compressed.
EXPANDS_FREELY = 64 << 20
READ, PIECE = 1 << 16, 1 << 18
HEAD = 512  # bytes that tell what a file is: a tar's first header is that long
# zstd's largest on 64 bits (--long=31). The memory is taken as it is filled, so short texts take little of it.
ZSTD_WINDOW = 1 << 31
ZSTD_MAGIC, SKIPPABLE_MAGIC = b"\x28\xb5\x2f\xfd", b"\x2a\x4d\x18"
GZIP_MAGIC = b"\x1f\x8b\x08"
ZLIB_MAGICS = (b"\x78\x01", b"\x78\x9c", b"\x78\xda")  # beside x^, with which a text may begin
LZMA_MAGIC, LZMA_HEADER, LZMA_LONGEST = b"\x5d\0\0", 13, 1 << 38  # with bytes: more are none, as xz has it
TAR_MAGIC, TAR_PLACE = b"ustar", 257
SUFFIXES = {".gz": "gzip", ".zst": "zstd", ".bz2": "bzip2", ".xz": "xz", ".lzma": "lzma"}
# What cannot be text, and how its name is said.
OTHERS = {
    b"PK\x03\x04": "a zip archive: unpack it",
    b"PAR1": "Parquet: name it *.parquet and read it as that, or write JSON lines",
    b"ARROW1\0\0": "an Arrow file: write its rows as JSON lines or Parquet",
    b"FEA1\0\0\0\0": "Feather of the first kind: write it as Parquet",
    b"\xff\xff\xff\xff": "an Arrow stream: write its rows as JSON lines or Parquet",
    b"\x04\x22\x4d\x18": "lz4: unpack it",
    b"\x1f\x9d": "compressed by `compress` (.Z): unpack it",
    b"\x1f\xa0": "compressed by `compress -H` (.Z): unpack it",
    b"\x1f\x1e": "compressed by `pack` (.z): unpack it",
    b"LZIP\x01": "lzip: unpack it",
    b"\x89LZO\0\r\n\x1a\n": "lzop: unpack it",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive: unpack it",
    b"Rar!\x1a\x07": "a RAR archive: unpack it",
    b"\xff\x06\0\0sNaPpY": "snappy: unpack it",
    b"SQLite format 3\0": "an SQLite database: export its texts",
    b"%PDF-": "a PDF: extract its text",
}


class ExpandsTooFar(Exception):
    """A compressed file became larger than its source's max_expansion allows."""


class Damaged(Exception):
    """A compressed file is torn, or not what its name says."""


class ZstdError(ValueError):
    """A zstd frame that its library does not take."""


def kind_of(head: bytes) -> str | None:
    """gzip, zstd, bzip2, xz or lzma, by the first bytes of a file; None of any other."""
    if head.startswith(GZIP_MAGIC):
        return "gzip"
    if head.startswith(ZSTD_MAGIC) or (head[1:4] == SKIPPABLE_MAGIC and head[0] & 0xF0 == 0x50):
        return "zstd"
    if head.startswith(b"BZh") and head[4:10] in (b"1AY&SY", b"\x17rE8P\x90"):
        return "bzip2"
    return "xz" if head.startswith(b"\xfd7zXZ\0") else "lzma" if _is_lzma(head) else None


def _is_lzma(head: bytes) -> bool:
    """Whether a file is LZMA alone, which has no magic number: the test of xz on its header."""
    if len(head) < LZMA_HEADER or not head.startswith(LZMA_MAGIC):
        return False
    window, size = int.from_bytes(head[1:5], "little"), int.from_bytes(head[5:LZMA_HEADER], "little")
    return f"{window:b}".rstrip("0") in ("1", "11") and (size < LZMA_LONGEST or size == (1 << 64) - 1)


def _is_zlib(head: bytes) -> bool:
    """Whether a file is a bare stream of zlib's, which says so by two bytes alone: what follows must be one, too."""
    try:
        return head.startswith(ZLIB_MAGICS) and bool(zlib.decompressobj().decompress(head))
    except zlib.error:
        return False


def foreign_kind(head: bytes) -> str | None:
    """What a file is that holds no text by itself, and what to do with it."""
    if head[TAR_PLACE : TAR_PLACE + len(TAR_MAGIC)] == TAR_MAGIC:
        return "a tar archive: unpack it"
    if _is_zlib(head):
        return "a zlib stream (.z): unpack it"
    return next((name for magic, name in OTHERS.items() if head.startswith(magic)), None)


class Decompressor(Protocol):
    """One frame of zlib's, bz2's, lzma's or zstandard's: bytes after its end are in unused_data."""

    eof: bool
    unused_data: bytes

    def decompress(self, data: bytes, size: int, /) -> bytes: ...


class Plain(io.RawIOBase):
    """The bytes of frames that follow each other, little at a time, so that what stands before a tear is not lost with it.

    Raises Damaged at a tear, and, unless it may hold anything, where what comes out is no text by itself. Reading further then
    goes on with the next whole frame, where the format lets one find it (gzip), and else finds the end. Raises ExpandsTooFar
    once bytes are more than those read so far allow, and then finds the end.
    """

    def __init__(self, packed: IO[bytes], kind: str, max_expansion: int, holds_anything: bool = False) -> None:
        self._packed, self._kind, self._max_expansion = packed, kind, max_expansion
        self._waiting = self._ready = b""
        self._frame: Decompressor | None = None
        self._given = self._frames = 0
        self._over = self._fed = False
        self._seen = holds_anything

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        data = self.read1(len(view))
        view[: len(data)] = data
        return len(data)

    def read1(self, size: int = PIECE) -> bytes:
        """Next bytes, at most `size`; none at the end alone."""
        while not self._ready and not self._over:
            self._ready = self._next(min(size, PIECE) if size > 0 else PIECE)
            self._given += len(self._ready)
            if self._ready and not self._seen:
                self._look()
            if self._given > EXPANDS_FREELY and self._given > self._max_expansion * self._packed.tell():
                self._over, self._ready = True, b""
                raise ExpandsTooFar(
                    f"{self._packed.tell()} bytes became more than {self._given}; max_expansion is {self._max_expansion}"
                )
        size = size if size > 0 else len(self._ready)
        data, self._ready = self._ready[:size], self._ready[size:]
        return data

    def _look(self) -> None:
        """Raises Damaged where the first bytes that come out are those of no text."""
        self._seen, head = True, self._ready[:HEAD]
        if found := foreign_kind(head) or ((kind := kind_of(head)) and f"{kind}: unpack it once"):
            self._over, self._ready = True, b""
            raise Damaged(f"is {self._kind} that holds {found}")

    def _next(self, size: int) -> bytes:
        if self._frame is None and not self._begin():
            return b""
        assert self._frame
        if not self._waiting and not self._pending():
            self._waiting = self._packed.read(READ)
            if not self._waiting:
                self._over = True
                raise Damaged(f"the {self._kind} data ends before it is whole")
        given, self._waiting = self._waiting, b""
        try:
            data = self._frame.decompress(given, size)
        except (zlib.error, lzma.LZMAError, OSError, ValueError, EOFError, MemoryError) as error:
            self._lose(given)
            raise Damaged(f"{self._kind}: {type(error).__name__}: {error}") from None
        self._fed = True
        if self._frame.eof:
            self._waiting, self._frame = self._frame.unused_data, None
            self._frames += 1
        elif self._kind == "gzip":
            self._waiting = self._frame.unconsumed_tail  # type: ignore[attr-defined]
        return data

    def _pending(self) -> bool:
        """Whether the frame may give bytes without being fed; zlib's keeps none back that `unconsumed_tail` does not."""
        return not getattr(self._frame, "needs_input", True)

    def _begin(self) -> bool:
        """Begin the next frame; False at the end. Zeros after a frame pad it."""
        more = b"more"
        while more:
            if self._frames:
                self._waiting = self._waiting.lstrip(b"\0")
            if len(self._waiting) >= HEAD:
                break
            more = self._packed.read(READ)
            self._waiting += more
        if not self._waiting:
            self._over = True
            return False
        if kind_of(self._waiting) != self._kind:
            self._lose(self._waiting)
            raise Damaged(f"bytes after the end of the {self._kind} data" if self._frames else f"not {self._kind}")
        self._frame, self._fed = DECOMPRESSORS[self._kind](), False
        return True

    def _lose(self, given: bytes) -> None:
        """Go on with the next beginning of a frame at or after what was given to the one that is broken."""
        begins_here = self._frame is not None and not self._fed
        self._frame = None
        if self._kind != "gzip":
            self._over = True
            return
        at = given.find(GZIP_MAGIC, 1 if begins_here else 0)
        while at < 0 and (more := self._packed.read(READ)):
            given = given[-len(GZIP_MAGIC) + 1 :] + more
            at = given.find(GZIP_MAGIC)
        self._waiting, self._over = given[at:] if at >= 0 else b"", at < 0


class _Zstd:
    """A zstd frame, fed block by block: no block gives more than 128 KiB, and a frame that is cut off is told."""

    needs_input = True

    def __init__(self) -> None:
        import zstandard  # not above: models and kernels run where there is none, as on a machine that a GPU is checked on

        self._error = zstandard.ZstdError
        self._object = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW).decompressobj()
        self._held = b""
        self._wants, self._state = 0, "header"
        self._out: list[bytes] = []
        self.eof, self.unused_data = False, b""

    def decompress(self, data: bytes, size: int, /) -> bytes:
        """Bytes of one block at most; what is left of the data is held."""
        self._held += data
        data = b""
        while not data and not self.eof:
            step = self._step()
            if step is None:
                break
            data = step
        if self.eof:
            self.unused_data, self._held = self._held, b""
        self.needs_input = not data and not self.eof
        return data

    def _take(self, count: int) -> bytes | None:
        if len(self._held) < count:
            return None
        taken, self._held = self._held[:count], self._held[count:]
        return taken

    def _step(self) -> bytes | None:
        """Pass one part of the frame on: its header, a block, or its end; None where it is not all there."""
        if self._state == "header":
            if len(self._held) < 8:
                return None
            if not self._held.startswith(ZSTD_MAGIC):  # a frame of something else, to be skipped
                self._state, self._wants = "skipped", 8 + int.from_bytes(self._held[4:8], "little")
                return b""
            size = _header_size(self._held[4])
            header = self._take(size)
            if header is None:
                return None
            self._has_sum, self._state = bool(header[4] & 4), "block"
            return self._decompressed(header)
        if self._state == "skipped":
            if self._wants and not self._held:
                return None
            skipped = min(self._wants, len(self._held))
            self._held, self._wants = self._held[skipped:], self._wants - skipped
            self.eof = not self._wants
            return b""
        if len(self._held) < 3:
            return None
        head = int.from_bytes(self._held[:3], "little")
        last, kind, size = head & 1, head >> 1 & 3, head >> 3
        block = self._take(3 + (1 if kind == 1 else size) + (4 if last and self._has_sum else 0))
        if block is None:
            return None
        self.eof = bool(last)
        return self._decompressed(block)

    def _decompressed(self, data: bytes) -> bytes:
        try:
            return self._object.decompress(data)
        except self._error as error:
            raise ZstdError(str(error)) from None


def _header_size(descriptor: int) -> int:
    """Bytes of a zstd frame's magic and header, by the header's first byte (RFC 8878, 3.1.1.1)."""
    single, size_flag = descriptor >> 5 & 1, descriptor >> 6
    return 5 + (not single) + (0, 1, 2, 4)[descriptor & 3] + (single, 2, 4, 8)[size_flag]


DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    "gzip": lambda: zlib.decompressobj(wbits=31),
    "zstd": _Zstd,
    "bzip2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ),
    "lzma": lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE),
}
