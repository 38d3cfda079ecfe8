"""One checkpoint on disk: a safetensors file that is either there and whole or not there, and that knows its own digest.

The layout is an 8-byte length, a JSON header of that length, and the tensors' bytes. The digest stands in the header's
metadata and covers the whole file, with zeros in its own place. SHA-256, because processors have instructions for it: 1.8 GB/s
on the machine of benchmarks/results, BLAKE2b 0.9.
"""

import hashlib
import json
import shutil
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from lm.files import replacing
from lm.training.checkpoint.snapshot import Entry, size_of

VERSION = "1"
KEYS = {"digest", "optimizer", "step", "version"}
UNKNOWN = b"0" * 2 * hashlib.sha256().digest_size
CHUNK = 2**22  # bytes hashed and written at a time: both fit a processor's cache, and let go of Python's lock


class Torn(ValueError):
    """The file is a checkpoint, but not all of it is as it was written."""


def write(path: Path, entries: dict[str, Entry], data: list[memoryview], metadata: dict[str, str]) -> None:
    """Write the file of these pieces, wait for the disk, and only then give it its name; until that moment `path` is as it was.

    Raises OSError that names the file and says how much room it needs and there is.
    """
    header = {"__metadata__": {**metadata, "version": VERSION, "digest": UNKNOWN.decode()}, **entries}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)  # the format wants the data aligned to 8 bytes; 64 is a cache line
    head = len(text).to_bytes(8, "little") + text
    digest = hashlib.sha256(head)
    try:
        with replacing(path, durable=True) as unfinished, unfinished.open("wb") as file:
            file.write(head)
            for piece in data:
                for start in range(0, len(piece), CHUNK):
                    file.write(piece[start : start + CHUNK])
                    digest.update(piece[start : start + CHUNK])
            file.seek(head.index(UNKNOWN))
            file.write(digest.hexdigest().encode())
    except OSError as error:
        needed, free = len(head) + size_of(data), shutil.disk_usage(path.parent).free
        raise OSError(
            error.errno,
            f"{path}: not written: {error.strerror}; it needs {needed:,} bytes and {free:,} are free",
        ) from error


def read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """(metadata, tensors), which are views of the file. Raises Torn with the reason, without the file's name, when it is
    not whole, and ValueError when it is a whole file of something else. What another process deletes meanwhile is read to its
    end: each of the three that open a file here opens the one that was there first."""
    with path.open("rb") as held:
        return _read(path, Path(f"/dev/fd/{held.fileno()}"))


def _read(path: Path, opened: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(opened, "pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
    except SafetensorError as error:
        raise Torn(f"not a whole safetensors file ({error})") from None
    if not KEYS & metadata.keys():
        raise ValueError(f"{path}: no checkpoint of a training loop: its metadata has no {', '.join(sorted(KEYS))}")
    if metadata.get("digest") != _digest(opened, metadata):
        raise Torn("its bytes do not have the digest they were written with")
    if metadata["version"] != VERSION:
        raise ValueError(f"{path}: version {metadata['version']} of the checkpoint format; this code reads {VERSION}")
    return metadata, load_file(opened)


def _digest(path: Path, metadata: dict[str, str]) -> str:
    """What the digest of the file must be."""
    with path.open("rb") as file:
        length = file.read(8)
        head = length + file.read(int.from_bytes(length, "little"))
        digest = hashlib.sha256(head.replace(metadata.get("digest", "").encode() or UNKNOWN, UNKNOWN, 1))
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
