"""The stage with each of its choices: what it says, and that every parameter changes the weights."""

import json
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file

from lm.averages import Last
from lm.checkpoint import save_model
from lm.config import methods_of
from lm.optimizers import AdamW
from lm.problems import Arithmetic
from lm.prompts import Ept, PromptTuning
from lm.schedules import Wsd
from lm.training.data.conversations import collate
from tasks.core.config import ConfigError, Conversations
from tasks.core.log import Log
from tasks.core.process import Stopped
from tasks.sft import confidences, corruptions, formats, losses, mixtures
from tasks.sft.confidences import Certain, Likelihood, Stated
from tasks.sft.corruptions import MaskedThought, Untouched
from tasks.sft.data import read_data
from tasks.sft.formats import Flipped, Markers, Plain, Rationales, Retrieved
from tasks.sft.losses import ConfidenceLimited, CrossEntropy
from tasks.sft.mixtures import Even, InTurn, Proportional
from tasks.sft.orders import Ascending
from tasks.sft.sources import Attempts, Files, OwnAnswers, Problems, Subtasks
from tasks.sft.stage import QUARANTINE, SftConfig, run
from tests.lm.models import toy_tokenizer
from tests.neighbours import assert_all_differ, every_neighbour
from tests.sft.models import speaks


def talk(n: int, turns: int = 1) -> dict[str, Any]:
    messages = [{"role": ("user", "assistant")[i % 2], "content": "ab cd"[: 1 + (n + i) % 5]} for i in range(2 * turns)]
    return {
        "messages": messages,
        "level": n % 3,
        "confidence": 0.25 + n / 16,
        "rationale": "abc"[: n % 4],
        "markers": {"n": n % 2},
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of conversations: twelve short ones, one of two turns, one too long, one that is none."""
    place = tmp_path_factory.mktemp("conversations")
    rows = [talk(n, 1 + (n == 4)) for n in range(12)]
    long = {"prompt": "x", "completion": "long " * 20, "level": 1}
    (place / "a").mkdir()
    (place / "a" / "rows.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in [*rows[:6], {"text": "none"}, *rows[6:], long])
    )
    return place


def settings(folder: Path, **changes: Any) -> SftConfig:
    """Six steps of four conversations, but for the changes."""
    given = {
        "steps": 6, "batch": 4, "seed": 0, "optimizer": AdamW(lr=1e-2), "schedule": Wsd(), "average": Last(), "model": "pretrain",
        "problems": Arithmetic(digits=1, worked_fraction=0.5), "conversations": Conversations(folder=str(folder)),
        "sources": [Files(path="a")],
    }  # fmt: skip
    return SftConfig(**{**given, **changes})


def trained(data: Path, folder: Path, log: Log | None = None, **changes: Any) -> tuple[str, dict[str, float]]:
    """(digest of the weights, metrics)."""
    for name in ("pretrain", "sft"):
        (data / name).mkdir(parents=True, exist_ok=True)
    save_model(data / "pretrain", speaks(context=96), toy_tokenizer())
    metrics = run(settings(folder, **changes), data, log or Log())
    path = data / "sft" / "model.safetensors"
    assert all(weight.isfinite().all() for weight in load_file(path).values())
    return sha256(path.read_bytes()).hexdigest(), metrics


FORMS = [
    Markers(), Markers(silent=0.0), Markers(silent=1.0), Markers(silent=0.0, dropped=0.0), Markers(length=False), Markers(predicted=False),
    Flipped(), Rationales(), Rationales(weight=0.5), Retrieved(shots=1), Retrieved(), Retrieved(by="random"), Retrieved(bank=4), Retrieved(by="trigrams"),
]  # fmt: skip
FORMS += [method() for method in methods_of(formats) if method not in {Plain, *map(type, FORMS)}]
MIXTURES = [Even(), InTurn(), Proportional(), Proportional(temperature=3.0), Proportional(limit=4)]
MIXTURES += [method() for method in methods_of(mixtures) if method not in set(map(type, MIXTURES))]
CONFIDENCES = [Stated(), Likelihood(), Likelihood(power=2.0)]
CONFIDENCES += [method() for method in methods_of(confidences) if method not in {Certain, *map(type, CONFIDENCES)}]
CHANGES: dict[str, list[dict[str, Any]]] = {
    "steps": [{"steps": 8}],
    "batch": [{"batch": 5}],
    "sources": [
        {"sources": [Files(path="a", fraction=0.6)]}, {"sources": [Problems()]}, {"sources": [Files(path="a"), Problems()]},
        {"sources": [Problems(fraction=0.5)]}, {"sources": [Subtasks()]}, {"sources": [Files(path="a"), Subtasks()]},
        {"sources": [OwnAnswers(samples=2, max_new_tokens=6)]}, {"sources": [OwnAnswers(samples=3, max_new_tokens=6)]},
        {"sources": [Attempts(samples=2, max_new_tokens=6, kept="all")]},
        *({"sources": [Files(path="a", format=form)]} for form in FORMS),
        *({"sources": [Problems(format=method())]} for method in methods_of(formats) if method is not Plain),
        {"sources": [Files(path="a"), Problems(weight=3.0)]}, {"sources": [Files(path="a", weight=3.0), Problems()]},
    ],
    "learned": [{"learned": "last"}],
    "too_long": [{"too_long": "cut"}],
    "packing": [{"packing": True}],
    "soft_prompt": [{"soft_prompt": PromptTuning(length=3)}, {"soft_prompt": Ept(length=3)}],
    "mixture": [{"sources": [Files(path="a", fraction=0.3), Subtasks()], "mixture": method} for method in MIXTURES],
    "confidence": [{"confidence": method} for method in CONFIDENCES],
    "order": [{"order": Ascending()}, {"order": Ascending(by="length")}],
    "corruption": [{"corruption": method()} for method in methods_of(corruptions) if method is not Untouched],
    "loss": [{"loss": method()} for method in methods_of(losses) if method is not CrossEntropy],
    "seed": [{"seed": 1}],
}  # fmt: skip
# Of every training stage: tests/rl/test_stage.py and what it names
ELSEWHERE = {
    "schedule", "average", "compile", "deterministic", "skip_sigmas", "stop_factor", "problems", "model", "conversations", "optimizer",
    "clip", "precision", "stream", "shards", "linear", "fast_forward", "lookahead", "recompute", "rounding",
    "optimizer_states",
}  # fmt: skip


def test_every_parameter_changes_the_weights(tmp_path: Path, folder: Path) -> None:
    assert set(CHANGES) | ELSEWHERE == set(SftConfig.model_fields)
    tries = [[changes] for choices in CHANGES.values() for changes in choices]
    for field, room in (("corruption", corruptions), ("loss", losses)):
        tries += [[{field: method} for method in methods] for methods in every_neighbour(methods_of(room))]
    folders = count()
    assert_all_differ(lambda changes: trained(tmp_path / str(next(folders)), folder, **changes)[0], tries)


def test_what_is_no_conversation_is_kept_apart_with_its_reason(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, metrics = trained(tmp_path, folder)
    assert metrics == {"steps": 6, "examples": 12, "too_long": 1, "quarantined": 1}
    (row,) = map(json.loads, (tmp_path / "sft" / QUARANTINE).read_text().splitlines())
    assert (
        row["where"] == f"{folder}/a/rows.jsonl:7"
        and "its fields are text" in row["reason"]
        and "none" in row["excerpt"]
    )
    assert (
        "sft: 1 rows are no conversation, see data/sft/quarantine.jsonl: 1 x needs `messages`"
        in capsys.readouterr().out
    )
    _, metrics = trained(tmp_path / "cut", folder, too_long="cut")
    assert metrics == {"steps": 6, "examples": 13, "too_long": 1, "quarantined": 1}


def test_a_source_without_conversations_is_named(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "none.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    for source, reason in (
        (Files(path="b"), r"b: holds no \*.jsonl, "),
        (Files(path="none.jsonl"), r"sft.sources: files: has no conversation: 2 x needs .*\(first: .*none.jsonl:1\)"),
    ):
        with pytest.raises(ConfigError, match=reason):
            trained(tmp_path / "run", tmp_path, sources=[source])
    for path in ("../x", "/x"):
        with pytest.raises(ValueError, match="must lie in conversations.folder"):
            Files(path=path)


def test_packed_and_padded_learn_alike(tmp_path: Path, folder: Path) -> None:
    """The same losses to 1e-4, in fewer positions: the issue of packing is that nothing else differs."""

    class Said(Log):
        def __init__(self) -> None:
            self.losses: list[float] = []

        def __call__(self, step: int, **values: float) -> None:
            self.losses.append(values["loss"])

    found = []
    for packing in (False, True):
        said = Said()
        trained(tmp_path / str(packing), folder, said, packing=packing, optimizer=AdamW(lr=1e-3), batch=8)
        found.append(said.losses)
    assert found[1] == pytest.approx(found[0], rel=1e-4)


class Killed(Log):
    """A log with a scratch folder, whose run is told to stop after some steps."""

    def __init__(self, scratch: Path, after: int) -> None:
        self.scratch, self._after = scratch, after

    def __call__(self, step: int, **values: float) -> None:
        self.stopping = step + 1 == self._after


@pytest.mark.parametrize(
    "changes",
    [{"corruption": MaskedThought(), "packing": True}, {"loss": ConfidenceLimited()}],
    ids=["hidden", "limited"],
)
def test_a_run_that_was_stopped_ends_in_the_same_bytes(tmp_path: Path, folder: Path, changes: dict[str, Any]) -> None:
    whole, _ = trained(tmp_path / "whole", folder, **changes)
    (tmp_path / "scratch").mkdir()
    with pytest.raises(Stopped):
        trained(tmp_path / "cut", folder, Killed(tmp_path / "scratch", 3), **changes)
    again, _ = trained(tmp_path / "cut", folder, Killed(tmp_path / "scratch", 0), **changes)
    assert again == whole


def test_a_packed_step_divides_into_shards(tmp_path: Path, folder: Path) -> None:
    """Its rows follow from the conversations, and are as many as the shards divide; the sums are of another order."""
    one, two = (trained(tmp_path / str(shards), folder, packing=True, shards=shards, batch=6)[0] for shards in (1, 2))
    assert one != two
    assert trained(tmp_path / "again", folder, packing=True, shards=2, batch=6)[0] == two


@torch.no_grad()
def test_what_is_hidden_is_predicted_all_the_same(tmp_path: Path, folder: Path) -> None:
    """Tokens are hidden from what comes after them alone: the loss is that of all that was said."""

    class Said(Log):
        losses: ClassVar[list[float]] = []

        def __call__(self, step: int, **values: float) -> None:
            self.losses.append(values["loss"])

    method, tokenizer, model = MaskedThought(share=0.6, warmup=0.0), toy_tokenizer(), speaks(context=96)
    with torch.enable_grad():
        trained(tmp_path, folder, Said(), corruption=method, steps=1, batch=12)
    found = read_data(settings(folder), tokenizer, model.config.context, 12)
    ids, mask = collate([found.conversations[i] for i in found.picks_P], tokenizer.pad_id)
    read = method(ids[:, :-1], mask, tokenizer.pad_id, 0, 0, 1)
    assert not torch.equal(read, ids[:, :-1])
    logps = model(read).log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
    assert Said.losses == [pytest.approx(float(-(logps * mask).sum() / mask.sum()), rel=1e-5)]
