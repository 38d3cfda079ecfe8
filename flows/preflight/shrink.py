"""The same params at toy width: every method as chosen, everything that costs made small.

What is made small is valid by construction: whether the true numbers are is told by edges.py, with these numbers.
"""

from dataclasses import dataclass
from typing import Any, Literal

from lm.config import Config
from lm.problems.example import Example, Score

TEXT_BYTES = 500_000
HEAD_WIDTH = 8
PROBLEMS = 12
HELD_OUT = 0.1  # of the text, at most


def shrunk(params: dict[str, Any], raw: str, checkpoint: str) -> dict[str, Any]:
    """The params of the toy run. raw, checkpoint: the folders that toy sources and toy model are in."""
    toy = moved(params, params.get("checkpoint", {}).get("folder"), checkpoint)
    for name, change in CHANGES.items():
        if isinstance(toy.get(name), dict):
            toy[name] = {**toy[name], **change(toy)}
    if "ingest" in toy:
        toy["ingest"] = {**toy["ingest"], "folder": raw, "max_bytes": TEXT_BYTES}
    return toy


def moved(value: Any, old: str | None, new: str) -> Any:
    """A copy in which every path in the folder `old` is in `new`."""
    if isinstance(value, dict):
        return {key: moved(part, old, new) for key, part in value.items()}
    if isinstance(value, list):
        return [moved(part, old, new) for part in value]
    if isinstance(value, str) and old and (value == old or value.startswith(f"{old}/")):
        return new + value[len(old) :]
    return value


def rows(recipe: dict[str, Any], least: int) -> int:
    """Number of rows: at least `least`, and a multiple of the stage's shards."""
    parts = recipe.get("shards", 1)
    return parts * -(-least // parts)


def curriculum(toy: dict[str, Any]) -> dict[str, Any]:
    """Section of a curriculum of two steps, with sequences of the true length."""
    method = toy["curriculum"]["method"]
    length = method.get("sequence_length") or method.get("max_length") or 256
    per_step = length * max(rows(toy[name], 2) for name in ("pretrain", "distill"))
    return {"tokens": 2 * per_step, "tokens_per_step": per_step}


def tokenize(toy: dict[str, Any]) -> dict[str, Any]:
    """The first rows of a file may be of one group, or stand in each other, where the whole is not so. What is held out is read
    by each model that is evaluated."""
    held_out = min(toy["tokenize"].get("held_out_fraction", HELD_OUT), HELD_OUT)
    return {"group_by": [], "max_overlap": 1.0, "held_out_fraction": held_out}


def pretrain(toy: dict[str, Any]) -> dict[str, Any]:
    section = toy["pretrain"]
    samples = {"samples_every": 1} if section.get("samples_every") else {}
    return {"model": model(section["model"]), "compile": "off", **samples}


def model(shape: dict[str, Any]) -> dict[str, Any]:
    """Shape with two layers and a few narrow heads; what else the model has, and its context, stay. The vocabulary is the
    tokenizer's."""
    heads, kv_heads = shape.get("heads", 5), shape.get("kv_heads", 1)
    kv = min(kv_heads, 2)
    few = kv * min(heads // kv_heads, 2)
    small = {"layers": 2, "heads": few, "kv_heads": kv, "width": few * HEAD_WIDTH, "ffn_width": 2 * few * HEAD_WIDTH}
    return {**shape, **small, "vocab_size": 0, "head_width": HEAD_WIDTH if shape.get("head_width") else 0}


def sft(toy: dict[str, Any]) -> dict[str, Any]:
    return {"steps": 2, "batch": rows(toy["sft"], 4), "compile": "off"}


def rl(toy: dict[str, Any]) -> dict[str, Any]:
    parts = min(toy["rl"].get("minibatches", 2), 2)
    few = {"prompts": parts * rows(toy["rl"], 2), "samples": 2, "updates": 1, "minibatches": parts}
    return {"steps": 2, **few, "compile": "off"}


def distill(toy: dict[str, Any]) -> dict[str, Any]:
    texts = rows(toy["distill"], 1) if toy["distill"].get("corpus_sequences", 4) else 0
    return {
        "steps": 2,
        "batch": rows(toy["distill"], 2),
        "corpus_sequences": texts,
        "student_layers": 1,
        "compile": "off",
    }


def quantize(toy: dict[str, Any]) -> dict[str, Any]:
    calibration = toy["quantize"].get("calibration", {})
    return {"calibration": {**calibration, "problems": 4, "sequences": 2}}


def evaluate(toy: dict[str, Any]) -> dict[str, Any]:
    return {"problems_counted": PROBLEMS}


CHANGES = {
    "tokenize": tokenize,
    "curriculum": curriculum,
    "pretrain": pretrain,
    "sft": sft,
    "rl": rl,
    "distill": distill,
    "quantize": quantize,
    "evaluate": evaluate,
}


@dataclass
class Few:
    """A problem set with the shortest and the longest problems of each split alone, read once for all stages."""

    whole: Any

    def __post_init__(self) -> None:
        self._splits: dict[str, list[Example]] = {}

    def examples(self, split: Literal["sft", "rl", "test"]) -> list[Example]:
        if split not in self._splits:
            every = sorted(self.whole.examples(split), key=lambda e: len(e.prompt) + len(e.demonstration))
            few = every if len(every) <= PROBLEMS else [*every[: PROBLEMS - 2], *every[-2:]]
            self._splits[split] = few
        return self._splits[split]

    def score(self, example: Example, text: str) -> Score:
        return self.whole.score(example, text)


def with_few_problems(config: Config, known: dict[Any, Few]) -> Config:
    """The config with a small problem set in place of its own, where it has one."""
    problems = getattr(config, "problems", None)
    if problems is None:
        return config
    return config.model_copy(update={"problems": known.setdefault(problems, Few(problems))})
