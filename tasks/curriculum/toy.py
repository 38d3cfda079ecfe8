"""Curriculum in the toy run."""

from pathlib import Path

from tasks.about.shrink import Params, rows


def toy(params: Params, folder: Path) -> Params:
    """Two steps of sequences of the true length, as many as the shards of any stage that trains divide; the first one in two
    halves where there is a ramp."""
    method = params["curriculum"]["method"]
    length = method.get("sequence_length") or method.get("max_length") or 256
    training = [section for section in params.values() if isinstance(section, dict) and "optimizer" in section]
    per_step = length * max((rows(section, 2) for section in training), default=2)
    if params["curriculum"].get("ramp", {}).get("doublings"):
        per_step *= 2
        return {"tokens": 2 * per_step, "tokens_per_step": per_step, "ramp": {"doublings": 1, "share": 0.5}}
    return {"tokens": 2 * per_step, "tokens_per_step": per_step}
