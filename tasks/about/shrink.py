"""How small the toy run is, and what rooms make their sections small with."""

from typing import Any

TEXT_BYTES = 500_000
HEAD_WIDTH = 8
PROBLEMS = 12

Params = dict[str, Any]


def rows(recipe: Params, least: int) -> int:
    """Number of rows: at least `least`, and a multiple of the stage's shards."""
    parts = recipe.get("shards", 1)
    return parts * -(-least // parts)


def narrow_shape(shape: Params) -> Params:
    """Shape with two layers, or as many as a pattern has, and a few narrow heads; what else the model has, and its context,
    stay. The vocabulary is the tokenizer's."""
    heads, kv_heads = shape.get("heads", 5), shape.get("kv_heads", 1)
    kv = min(kv_heads, 2)
    few = kv * min(heads // kv_heads, 2)
    layers = max(2, len(shape.get("pattern", [])))
    small = {
        "layers": layers,
        "heads": few,
        "kv_heads": kv,
        "width": few * HEAD_WIDTH,
        "ffn_width": 2 * few * HEAD_WIDTH,
    }
    return {**shape, **small, "vocab_size": 0, "head_width": HEAD_WIDTH if shape.get("head_width") else 0}
