"""Curriculum in the toy run."""

from pathlib import Path

from tasks.about.shrink import Params, rows


def toy(params: Params, folder: Path) -> Params:
    """Two steps of sequences of the true length, as many as the shards of any stage that trains divide."""
    method = params["curriculum"]["method"]
    length = method.get("sequence_length") or method.get("max_length") or 256
    training = [section for section in params.values() if isinstance(section, dict) and "optimizer" in section]
    per_step = length * max((rows(section, 2) for section in training), default=2)
    return {"tokens": 2 * per_step, "tokens_per_step": per_step}
