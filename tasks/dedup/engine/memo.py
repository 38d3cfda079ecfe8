"""What was computed of the documents of the last run, by a digest of their text, so that only new ones are computed again.

The file is an array of rows (digest, digest, check, B keys) of 64 bits, sorted by digest: 8 (B + 3) bytes a document of the
last run, 168 with 18 bands. A file that cannot be read is as none; a row whose check fails is as absent.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lm.files import replacing
from tasks.core.parts import Part


@dataclass(frozen=True)
class Memo:
    """table: M rows of 3 + B numbers, mapped into memory."""

    table: np.ndarray

    @classmethod
    def load(cls, path: Path, bands: int) -> "Memo":
        """The memo in a file, or an empty one."""
        try:
            table = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError):
            table = None
        if table is None or table.dtype != np.uint64 or table.ndim != 2 or table.shape[1] != bands + 3:
            table = np.zeros((0, bands + 3), dtype=np.uint64)
            table.flags.writeable = False
        return cls(np.asarray(table))

    def look_up(self, digests: np.ndarray, keys_BN: np.ndarray) -> np.ndarray:
        """Fill in the keys of the texts that are known; N bools say which these are."""
        from tasks.dedup.engine.compiled_memo import look_up

        found_N = np.zeros(digests.shape[1], dtype=bool)
        look_up(self.table, digests, keys_BN, found_N)
        return found_N


def save(path: Path, parts: list[Part], bands: int) -> None:
    """Make the memo of the documents of these parts (digests.npy, keys.npy) and of no others; whole or not at all."""
    from tasks.dedup.engine.compiled_memo import put

    digests = np.concatenate([np.load(part.folder / "digests.npy") for part in parts], axis=1)
    place = np.empty(digests.shape[1], dtype=np.int64)
    place[np.lexsort(digests[::-1])] = np.arange(len(place))
    with replacing(path) as unfinished:
        table = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.uint64, shape=(len(place), bands + 3))
        row = 0
        for part in parts:
            keys_BN = np.load(part.folder / "keys.npy", mmap_mode="r")
            rows = slice(row, row + keys_BN.shape[1])
            put(np.asarray(table), place[rows], digests[:, rows], np.asarray(keys_BN))
            row = rows.stop
        table.flush()
