"""Names as MLflow takes them: labels and paths are the user's, and a refused one would lose a whole batch of figures."""

import json
import posixpath
import re
from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

TAKEN = re.compile(r"[/\w.\- :]+")  # mlflow.utils.validation, of metrics, params and tags alike
LONGEST = 250


def lawful(name: str) -> str:
    """The name itself where MLflow takes it, else one with `_` for each character that it refuses, cut to what it takes, with a
    digest of the whole at its end, so that two names stay two and the same name stays the same in every run."""
    if TAKEN.fullmatch(name) and len(name) <= LONGEST and not _is_no_file(name):
        return name
    plain = re.sub(r"[^\w.\- :]", "_", name).lstrip(".")
    return _with_digest(plain, name, LONGEST)


def shortened(name: str, longest: int) -> str:
    """The name itself, or as much of it as fits beside a digest of the whole."""
    return name if len(name) <= longest else _with_digest(name, name, longest)


def _is_no_file(name: str) -> bool:
    """Whether it would be another file, taken for a path, or one outside its folder."""
    return posixpath.normpath(name) != name or name == "." or name.startswith(("..", "/"))


def _with_digest(text: str, name: str, longest: int) -> str:
    digest = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=5).hexdigest()
    return f"{text[: longest - len(digest) - 1]}-{digest}"


def flatten(values: Any, name: str = "") -> dict[str, str]:
    """Nested params as MLflow wants them: dotted names, values as params.yaml spells them, at most 6000 characters."""
    pieces: Iterable[tuple[Any, Any]]
    if isinstance(values, dict) and values:
        pieces = values.items()
    elif isinstance(values, list) and values:
        pieces = enumerate(values)
    else:
        text = json.dumps(values) if values is None or isinstance(values, bool) else str(values)
        return {name: text[:6000]}
    return {k: v for key, part in pieces for k, v in flatten(part, f"{name}.{key}" if name else str(key)).items()}
