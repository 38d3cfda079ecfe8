"""The stage: what it reads and writes, prefixes from text to tokens, and that pretraining can follow any of its plans."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lm.tokenizer import Tokenizer
from lm.training.data.plan import Plan
from tasks.core.config import ConfigError, load
from tasks.core.log import Log
from tasks.curriculum.methods import ShuffledPacking
from tasks.curriculum.orders import Shuffled
from tasks.curriculum.plan import Budget, Documents
from tasks.curriculum.stage import CurriculumConfig, read_documents, run, write_plan
from tasks.curriculum.stream import drawing
from tasks.pretrain import stage as pretrain
from tasks.tokenize.methods import Bytes
from tests.project import TINY, digest

BASE: dict[str, Any] = {
    "method": {"name": "shuffled_packing", "sequence_length": 32},
    "tokens": 1280,
    "tokens_per_step": 128,
    "seed": 0,
}
CHOICES: dict[str, dict[str, Any]] = {
    "grown": {"method": {"name": "grow_length", "min_length": 8, "max_length": 32}},
    "best fit": {"method": {"name": "best_fit_packing", "sequence_length": 32}},
    "mixed": {"order": {"name": "mixture", "phases": [{"share": 0.8}, {"share": 0.2, "weights": {"web": 1.0}}]}},
    "sorted": {"order": {"name": "by_score", "score": "clean"}},
    "twice": {"order": {"name": "two_set"}, "method": {"name": "best_fit_packing", "sequence_length": 32}},
    "subsets": {"order": {"name": "repeated_subsets"}},
    "window": {"order": {"name": "loss_window", "score": "bytes_per_token"}},
    "named": {"prefix": {"name": "metadata_conditioning", "template": "{source}: ", "cooldown": 0.5}},
    "judged": {"prefix": {"name": "control_tokens", "score": "clean", "threshold": 0.5, "dropout": 0.2}},
    "all": {
        "method": {"name": "best_fit_packing", "sequence_length": 64},
        "order": {"name": "by_score", "score": "clean", "bins": 2},
        "prefix": {"name": "metadata_conditioning", "template": "{source}: "},
    },
}


def tokenized(folder: Path, count: int = 90) -> Path:
    """What tokenize leaves for documents of letters: every tenth is held out, odd ones are from the web and clean."""
    tokenizer = Bytes()(iter(()), folder)
    (folder / "tokenize").mkdir(parents=True)
    (folder / "curriculum").mkdir()
    tokenizer.save(folder / "tokenize")
    ids = [[*tokenizer.encode("abcdefghijk"[: 3 + i % 8]), tokenizer.eos_id] for i in range(count)]
    lengths = np.array([len(each) for each in ids])
    np.save(folder / "tokenize/tokens.npy", np.concatenate(ids).astype(np.uint16))
    columns = {
        "id": [str(i) for i in range(count)],
        "source": ["web" if i % 2 else "books" for i in range(count)],
        "split": ["held_out" if i % 10 == 9 else "train" for i in range(count)],
        "start": np.cumsum(lengths) - lengths,
        "length": lengths,
        "bytes": lengths - 1,
        "score_clean": np.array([i % 2 for i in range(count)], dtype=np.float32),
    }
    pq.write_table(pa.table(columns), folder / "tokenize/documents.parquet")
    return folder


def made(folder: Path, **choice: Any) -> tuple[Plan, dict[str, float], Tokenizer]:
    metrics = run(load("curriculum", CurriculumConfig, {"curriculum": BASE | choice}), tokenized(folder), Log())
    return Plan(folder / "curriculum", folder / "tokenize"), metrics, Tokenizer.load(folder / "tokenize")


def test_documents_come_with_their_sources_and_scores(tmp_path: Path) -> None:
    documents = read_documents(tokenized(tmp_path) / "tokenize/documents.parquet")
    assert len(documents.row) == 81 and 9 not in documents.row and documents.sources == ("books", "web")
    assert documents.source[:3].tolist() == [0, 1, 0]
    assert set(documents.scores) == {"clean", "length", "bytes_per_token"}
    assert documents.scores["clean"][:3].tolist() == [0, 1, 0]


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_is_a_plan_that_can_be_followed(choice: str, tmp_path: Path) -> None:
    plan, metrics, _ = made(tmp_path / "one", **CHOICES[choice])
    assert plan.steps == metrics["steps"] == 10
    held_out = range(9, 90, 10)
    used = pq.read_table(tmp_path / "one/curriculum/plan.parquet")["document"].to_numpy()
    assert not np.isin(used, held_out).any()
    counts = [plan.loss_mask(step) for step in range(10)]
    predictions = sum(128 if counted is None else int(counted.sum()) for counted in counts)
    assert predictions == metrics["tokens"] and all(np.isfinite(value) for value in metrics.values())
    assert metrics["share_books"] + metrics["share_web"] == pytest.approx(1)
    assert all(plan.batch(step).numel() - len(plan.batch(step)) == 128 for step in range(10))
    made(tmp_path / "two", **CHOICES[choice])
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    has_others = choice in ("best fit", "twice", "named", "judged", "all")
    assert (tmp_path / "one/curriculum/prefixes.npy").exists() == has_others


def test_the_file_of_a_plan_is_small(tmp_path: Path) -> None:
    """Under 1% of the bytes of its tokens, in sequences of 1024 out of documents of 600 in the mean, one epoch."""
    generator = np.random.Generator(np.random.Philox(key=[6, 0]))
    lengths = np.maximum(2, generator.lognormal(np.log(600) - 0.5, 1.0, 20_000)).astype(np.int64)
    documents, tokens = Documents(np.arange(len(lengths)), lengths), int(lengths.sum())
    draw = drawing(documents, Shuffled(), None, np.zeros(0, np.int64), 0)
    plan = ShuffledPacking(sequence_length=1024)(documents, draw, Budget(tokens, 64 * 1024), 0)
    write_plan(tmp_path / "plan.parquet", plan)
    assert (tmp_path / "plan.parquet").stat().st_size < 0.007 * 2 * int(plan.length.sum())
    table = pq.read_table(tmp_path / "plan.parquet")
    assert all(np.array_equal(table[name], getattr(plan, name)) for name in table.column_names)


def texts(plan: Plan, step: int, tokenizer: Tokenizer) -> list[str]:
    """The sequences of a step with their counted targets in upper case."""
    ids, counted = plan.batch(step), plan.loss_mask(step)
    found = []
    for row in range(len(ids)):
        shown = [tokenizer.decode([i]) or "|" for i in ids[row].tolist()]
        targets = [True] * (len(shown) - 1) if counted is None else counted[row].tolist()
        found.append("".join([shown[0], *(s.upper() if c else s for s, c in zip(shown[1:], targets, strict=True))]))
    return found


def test_metadata_stands_before_documents_until_the_cooldown(tmp_path: Path) -> None:
    plan, metrics, tokenizer = made(tmp_path, **CHOICES["named"])
    early = "".join(text for step in range(5) for text in texts(plan, step, tokenizer))
    late = "".join(text for step in range(5, 10) for text in texts(plan, step, tokenizer))
    assert "books: ABC" in early and "web: ABC" in early  # read in lower case, and not predicted
    assert "books:" not in late[40:] and "web:" not in late[40:] and "|ABC" in late
    assert metrics["prefix_fraction"] > 0.2 and metrics["padding_fraction"] == 0


def test_control_tokens_follow_the_score(tmp_path: Path) -> None:
    made(tmp_path, **CHOICES["judged"])
    table = pq.read_table(tmp_path / "curriculum/plan.parquet").to_pydict()
    places = list(zip(table["step"], table["sequence"], strict=True))
    neighbours = zip(places[:-1], places[1:], table["document"][:-1], table["document"][1:], strict=True)
    pairs = [(first, second) for here, there, first, second in neighbours if here == there]
    followed = {(p, d % 2) for p, d in pairs if p < 0 <= d}
    assert followed == {(-2, 1), (-3, 0)}  # <|good|> before clean documents, <|bad|> before the others
    bare = {d for p, d in pairs if p >= 0 and d >= 0}
    assert 0.05 < len(bare) / len(set(table["document"])) < 0.5  # dropout, and documents cut by a sequence


def test_padding_is_at_the_end_and_counts_nothing(tmp_path: Path) -> None:
    plan, metrics, tokenizer = made(tmp_path, **CHOICES["best fit"])
    ids, counted = plan.batch(0), plan.loss_mask(0)
    assert counted is not None
    assert counted.equal(ids[:, 1:] != tokenizer.pad_id) and not counted.all()
    assert metrics["truncated_fraction"] == metrics["cropped_fraction"] == 0
    assert metrics["padding_fraction"] == pytest.approx(1 - (metrics["tokens"] + 40) / (40 * 33))


def test_choices_that_cannot_be_together_stop_before_any_work() -> None:
    for slot, choice in (("order", {"name": "two_set"}), ("prefix", {"name": "metadata_conditioning"})):
        with pytest.raises(ConfigError, match=f"method length_buckets has an order of its own: {slot} must be"):
            load(
                "curriculum",
                CurriculumConfig,
                {"curriculum": BASE | {"method": {"name": "length_buckets"}, slot: choice}},
            )
    with pytest.raises(ConfigError, match=r"curriculum.order.name: no method 'mixtures'; did you mean 'mixture'\?"):
        load("curriculum", CurriculumConfig, {"curriculum": BASE | {"order": {"name": "mixtures", "phases": []}}})
    prefix = {"name": "metadata_conditioning", "template": "x"}
    with pytest.raises(ConfigError, match=r"template must have \{source\} in it"):
        load("curriculum", CurriculumConfig, {"curriculum": BASE | {"prefix": prefix}})


class Losses(Log):
    def __init__(self) -> None:
        self.found: list[float] = []

    def __call__(self, step: int, **values: float) -> None:
        self.found.append(values["loss"])


@pytest.mark.parametrize("within", [False, True])
def test_a_model_is_trained_on_prefixes_and_padding(within: bool, tmp_path: Path) -> None:
    """The loss is the mean over what counts: it begins at that of a uniform guess over 261 tokens."""
    made(tmp_path, **CHOICES["all"])
    held_out = {"id": ["9"], "source": ["web"], "text": ["abc"]}
    pq.write_table(pa.table(held_out), tmp_path / "tokenize/held_out.parquet")
    (tmp_path / "pretrain").mkdir()
    section = {**TINY["pretrain"], "within_documents": within, "checkpoint": TINY["checkpoint"], "seed": 0}
    log = Losses()
    pretrain.run(load("pretrain", pretrain.PretrainConfig, {"pretrain": section}), tmp_path, log)
    assert len(log.found) == 10 and abs(log.found[0] - np.log(261)) < 0.3 and log.found[-1] < log.found[0]
