"""Where preflight's toy runs work: a folder each in the user's temporary one, outside the project.

What .dvcignore says of a project's files is not meant for samples of them, and a stage reads no file that is ignored. Whoever
works in a folder holds its lock, so that one whose process was killed is known, and removed by the next start.
"""

import fcntl
import glob
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tasks.core.config import ConfigError
from tasks.runner.own import cache_folder

# A temporary folder may be other machines' too, by a file system whose locks are each machine's own.
PREFIX = f"tokenmill-toy-{socket.gethostname()}@"
YOUNG = 60.0  # seconds in which a folder may be there and not be locked yet


def place_of_toys(root: Path) -> Path:
    """The temporary folder; where that lies in the project, this user's cache. Raises ConfigError where both do, or there is
    none that can be written to."""
    try:
        place = Path(tempfile.gettempdir())
        if _is_in(place, root):
            place = cache_folder()
    except OSError as error:
        raise ConfigError(f"TMPDIR: {error.strerror}: name a folder that this user may write to") from None
    if _is_in(place, root):
        raise ConfigError(
            f"TMPDIR: {tempfile.gettempdir()} is in the project, as XDG_CACHE_HOME is: name a folder outside it"
        )
    return place


def _is_in(place: Path, root: Path) -> bool:
    return place.resolve().is_relative_to(root.resolve())


@contextmanager
def toy_folder(root: Path) -> Iterator[tuple[Path, int]]:
    """A folder that goes at the end, and the descriptor of its lock, which whoever works there is to inherit. Raises
    ConfigError where none can be made."""
    remove_abandoned(root)
    place = place_of_toys(root)
    try:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
    except OSError as error:
        raise ConfigError(f"TMPDIR: {place}: {error.strerror}: make room, or name another folder") from None
    lock = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # of a file system without locks
            fcntl.flock(lock, fcntl.LOCK_SH)
        yield folder, lock
    finally:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(root: Path) -> list[Path]:
    """Remove the folders of this user and machine that nobody works in any more, of whatever project; returns them."""
    found = []
    for path in sorted(place_of_toys(root).glob(f"{glob.escape(PREFIX)}*")):
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # another user's, or gone meanwhile
            continue
        try:
            there = os.fstat(lock)
            if there.st_uid == os.getuid() and time.time() - there.st_mtime > YOUNG:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
                found.append(path)
        except OSError:
            pass  # it is in use
        finally:
            os.close(lock)
    return found
