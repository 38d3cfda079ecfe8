"""Which files are opened, by whatever code: Linux tells of each open in the folders that it is asked to watch.

Python's own hooks see what Python opens, and Parquet, safetensors and DuckDB open their files themselves.
"""

import ctypes
import os
import struct
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

OPENED, ENDED, IS_FOLDER = 0x20, 0x4000, 0x40000000  # of <sys/inotify.h>: IN_OPEN, IN_Q_OVERFLOW, IN_ISDIR
EVENT = struct.Struct("iIII")


class Watch:
    """Collects the files that are opened directly in these folders, until `stop`; nothing where the system is not Linux."""

    def __init__(self, folders: Iterable[Path], last: Path) -> None:
        """last: a file that nobody else opens, in none of the folders; the kernel's word of it says that all came before."""
        self.opened: set[Path] = set()
        self._folders: dict[int, Path] = {}
        self._last = last
        if sys.platform != "linux":
            return
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.inotify_init1(os.O_CLOEXEC)
        last.touch()
        for folder in (*folders, last):
            number = self._libc.inotify_add_watch(self._fd, os.fsencode(folder), OPENED)
            if self._fd < 0 or number < 0:
                raise RuntimeError(
                    f"{folder}: cannot be watched (fs.inotify.max_user_watches): errno {ctypes.get_errno()}"
                )
            self._folders[number] = folder
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def stop(self) -> set[Path]:
        """What was opened before this call. Raises RuntimeError where it was more than the kernel kept."""
        if self._folders:
            self._last.read_bytes()
            self._thread.join()
            os.close(self._fd)
            self._last.unlink()
        if self._last in self.opened:
            raise RuntimeError("more files were opened than the kernel tells of (fs.inotify.max_queued_events)")
        return self.opened

    def _read(self) -> None:
        while True:
            events = os.read(self._fd, 1 << 16)
            place = 0
            while place < len(events):
                number, mask, _, length = EVENT.unpack_from(events, place)
                name = events[place + EVENT.size : place + EVENT.size + length].rstrip(b"\0")
                place += EVENT.size + length
                if mask & ENDED:
                    self.opened.add(self._last)
                elif self._folders[number] == self._last:
                    return
                elif not mask & IS_FOLDER:
                    self.opened.add(self._folders[number] / os.fsdecode(name))
