"""Places of this user alone: folders that no other account can write to, and locks that it cannot have put there.

Whoever makes a file of a guessed name in /tmp first decides what it is: a link has a lock truncate the file that it leads to,
and compiled code that is found there is run.
"""

import getpass
import os
import pwd
import shutil
import socket
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from lm.config import ConfigError

WRITABLE_BY_OTHERS = 0o022
# States of the code, each of 6 MB compiled.
KEPT = 16


def open_lock(path: Path) -> int:
    """A descriptor of a lock file, made where it is missing, never truncated. Raises ConfigError for a link and for what else
    is no plain file."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    except OSError as error:
        what = "is a link, which a lock is not" if path.is_symlink() else error.strerror
        raise ConfigError(
            f"{path}: cannot be locked: {what}; remove it, or have it made by whoever runs this"
        ) from None
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise ConfigError(f"{path}: cannot be locked: it is no plain file; remove it")
    return descriptor


def own_folder(path: Path) -> Path:
    """The folder, made where it is missing. Raises ConfigError unless it is a folder, no link, that this user owns and nobody
    else can write to; OSError where it cannot be made."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & WRITABLE_BY_OTHERS:
        raise ConfigError(
            f"{path}: must be a folder of user {os.getuid()} that nobody else can write to; remove it, or name another place "
            "by XDG_CACHE_HOME"
        )
    return path


def home() -> Path | None:
    """The user's home, None for one without: HOME, else what the system's table of users says."""
    if named := os.environ.get("HOME"):
        return Path(named)
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return None


def stand_ins() -> dict[str, str]:
    """A name and a home, for a user who has none in the environment nor in the system's table, as a container's may: DVC and
    MLflow ask for the one, Prefect for the other, and fail without."""
    found = {}
    try:
        getpass.getuser()
    except (KeyError, OSError):
        found["USER"] = f"uid-{os.getuid()}"
    if home() is None:
        found["HOME"] = str(cache_folder())
    return found


def cache_folder() -> Path:
    """What this user's runs share on this machine: `tokenmill` in XDG_CACHE_HOME or ~/.cache, else a folder named by the user's
    number in the system's for temporary files. Raises ConfigError for one that another account can write to."""
    named, at = os.environ.get("XDG_CACHE_HOME"), home()
    place = Path(named) if named else at / ".cache" if at else None
    if place:
        try:
            folder = own_folder(place / "tokenmill")
            if os.access(folder, os.W_OK | os.X_OK):
                return folder
        except OSError:
            pass  # a home that cannot be written to, or is not there
    return own_folder(Path(tempfile.gettempdir()) / f"tokenmill-{os.getuid()}")


def device_locks() -> Path:
    """The folder of this machine's device locks; a home may be that of several machines."""
    return own_folder(cache_folder() / f"devices-{socket.gethostname()}")


def keep_compiled_code() -> None:
    """Have torch and numba keep what they compile in folders of this user, unless others are named. torch by itself takes one
    in /tmp, of a name that anybody can guess, and runs what it finds there. numba's is shared by all checkouts
    (tasks/core/jit.py), and the code that was compiled longest ago is forgotten. To be called before jit.py is imported."""
    for variable, name in (("TORCHINDUCTOR_CACHE_DIR", "inductor"), ("NUMBA_CACHE_DIR", "numba")):
        if variable not in os.environ:
            os.environ[variable] = str(folder := own_folder(cache_folder() / name))
            if variable == "NUMBA_CACHE_DIR":
                forget_oldest(folder)


def forget_oldest(folder: Path) -> None:
    """Remove what is in the folder beyond the newest KEPT."""
    with suppress(FileNotFoundError):  # another process forgets, too
        for old in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
