"""Keys of params.yaml that DVC's run cache would not see, and which are therefore refused."""

from typing import Any

# Left out of the run cache's own key, wherever in an entry they stand (dvc/stage/cache.py, _get_cache_hash).
UNSEEN = frozenset({"size", "nfiles"})


def unseen_keys(value: Any, name: str) -> list[str]:
    """The dotted names, below `name`, of keys that DVC's run cache does not see."""
    if isinstance(value, list):
        return [found for number, part in enumerate(value) for found in unseen_keys(part, f"{name}.{number}")]
    if not isinstance(value, dict):
        return []
    own = [f"{name}.{key}" for key in value if key in UNSEEN]
    return own + [found for key, part in value.items() for found in unseen_keys(part, f"{name}.{key}")]
