"""How code is compiled: without the interpreter's lock, and kept on disk under a digest of all of it.

numba by itself looks at the file of a function alone, and would go on with old code of a function that it calls from another;
and it looks where that file lies, so that each checkout would compile the same anew, for 27 s of a core.
Importing numba takes half a second, so what uses this is a module of its own that is imported where it is needed.
"""

from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import UserProvidedCacheLocator

TASKS = Path(__file__).resolve().parent.parent


def digest() -> str:
    """Digest of numba's version and of all files that may decide what compiled functions do: this one, those of every folder
    that has a compiled*.py."""
    found = blake2b(numba.__version__.encode() + Path(__file__).read_bytes(), digest_size=8)
    for folder in sorted({path.parent for path in TASKS.rglob("compiled*.py")}):
        for path in sorted(folder.glob("*.py")):
            found.update(path.read_bytes())
    return found.hexdigest()


class ByName(UserProvidedCacheLocator):
    """What is compiled of a file lies under its name in the project, whichever checkout it is read from."""

    @classmethod
    def get_suitable_cache_subpath(cls, py_file: str) -> str:
        path = Path(py_file)
        inside = path.is_relative_to(TASKS.parent)
        return (
            path.parent.relative_to(TASKS.parent).as_posix() if inside else super().get_suitable_cache_subpath(py_file)
        )


# Read when a function is decorated, so before this module's importers are. The folder is NUMBA_CACHE_DIR where that is set.
_folder = Path(numba.config.CACHE_DIR or TASKS / "__pycache__")  # type: ignore[attr-defined]
numba.config.CACHE_DIR = str(_folder / f"compiled-{digest()}")  # type: ignore[attr-defined]
numba.config.CACHE_LOCATOR_CLASSES = f"{ByName.__module__}.{ByName.__name__}"  # type: ignore[attr-defined]


def compiled(given: Any = None, *, makes_arrays: bool = False) -> Any:
    """Decorates a function: as `@compiled`, or as `@compiled(types)` where it is to be compiled when it is decorated.

    makes_arrays: so must be decorated what makes arrays, or gets any from a function that does: it counts references to arrays,
    which takes 20 to 30 ns a call; others do without. numba raises an error where a function makes an array undeclared, but one
    that it gets and does not declare is never freed (tests/core/test_jit.py looks for that).
    """
    if hasattr(given, "__code__"):
        return _compiled(given, _nrt=makes_arrays)
    return lambda function: _compiled(function, given, _nrt=makes_arrays)


def inlined(function: Callable[..., Any]) -> Any:
    """Compile a small function that makes no arrays into its callers: a call costs as much as it does, most of it for handing
    over arrays."""
    return _compiled(function, forceinline=True, _nrt=False)


def _compiled(function: Callable[..., Any], signature: Any = None, **options: Any) -> Any:
    code = function.__code__  # numba also goes by the path of the file, which may be one of several links to it
    function.__code__ = code.replace(co_filename=str(Path(code.co_filename).resolve()))
    return numba.njit(signature, nogil=True, cache=True, **options)(function)
