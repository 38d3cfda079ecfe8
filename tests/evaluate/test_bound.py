"""Bits at most: the mean over draws beside all masks by hand, padding and windows that change nothing, and the whole stage."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lm.checkpoint import save_model
from lm.config import ConfigError
from lm.problems import Arithmetic
from tasks.core.log import Log
from tasks.core.tables import read_table
from tasks.evaluate.bound import bound_bits, masked_windows, rename_as_bounds
from tasks.evaluate.stage import EvaluateConfig, run
from tests.evaluate.test_run import HELD_OUT, TOKENIZER, model_folder
from tests.lm.made_parts import ids_of
from tests.lm.models import toy_model
from tests.pretrain.test_masked_diffusion import enumerated, masked_model

QUIET = lambda *_: None  # noqa: E731


class Given:
    """A model whose first token is always there, for masks of what follows it."""

    def __init__(self, model: Any, first: int) -> None:
        self.model, self.first, self.head_weight, self.config = model, first, model.head_weight, model.config

    def hidden(self, ids: torch.Tensor) -> torch.Tensor:
        return self.model.hidden(torch.cat((torch.full((len(ids), 1), self.first), ids), 1))[:, 1:]


def test_the_mean_over_draws_is_the_bound_of_all_masks() -> None:
    model, ids = masked_model(logit_softcap=1.5), torch.tensor([4, 7, 250, 7])
    wanted = enumerated(Given(model, 4), ids[1:]) / math.log(2)
    (found,) = bound_bits(model, [ids], 3000, QUIET, batch=500)
    assert found == pytest.approx(wanted, rel=0.01)


def test_the_bound_is_no_less_than_what_the_model_says_of_the_document_by_the_mean_of_orders() -> None:
    """Of two tokens: minus the logarithm of the mean of both orders' products."""
    model = masked_model()
    both = torch.tensor([[261, 261], [9, 261], [261, 5]])
    with torch.no_grad():
        logps = (model.hidden(both) @ model.head_weight[:261].T).log_softmax(-1)
    orders = torch.stack([logps[0, 0, 9] + logps[1, 1, 5], logps[0, 1, 5] + logps[2, 0, 9]])
    exact = -float(orders.logsumexp(0) - math.log(2))
    bound = enumerated(model, torch.tensor([9, 5]))
    assert bound == pytest.approx(-float(orders.mean())) and bound > exact


def test_a_document_has_the_same_bits_beside_others_and_from_one_draw_on_they_differ() -> None:
    model = masked_model(context=12)
    documents = [ids_of(1, n)[0] for n in (2, 30, 13, 1)]
    together = bound_bits(model, documents, 4, QUIET, batch=3)
    for number, ids in enumerate(documents):
        alone = bound_bits(model, [torch.tensor([1])] * number + [ids], 4, QUIET, batch=64)
        assert alone[number] == pytest.approx(together[number], rel=1e-4)
    assert together[3] == 0 and together == bound_bits(model, documents, 4, QUIET, batch=3)
    assert bound_bits(model, documents, 8, QUIET)[1] != pytest.approx(together[1], rel=1e-3)


def test_windows_mask_what_they_count_alone_and_numbers_are_even() -> None:
    rows = masked_windows(2, torch.arange(40), 16, 8)
    counted = []
    for start in range(0, len(rows), 8):
        window = rows[start : start + 8]
        assert all(len(row.ids) <= 16 and torch.equal(row.ids, window[0].ids) for row in window)
        numbers = [int(row.masked.sum()) for row in window]
        places = torch.stack([row.masked for row in window]).any(0)
        first = int(places.int().argmax())
        assert first >= 1
        K = round(window[0].weight * 8 * numbers[0])
        assert all(row.weight == pytest.approx(K / number / 8) for row, number in zip(window, numbers, strict=True))
        assert all(1 <= number <= K for number in numbers) and not any(
            row.masked[: len(row.ids) - K].any() for row in window
        )
        even = sorted(numbers)
        assert np.abs(np.array(even) - (np.arange(8) + 0.5) / 8 * K - 0.5).max() <= K / 16 + 1
        counted += window[0].ids[len(window[0].ids) - K :].tolist()
    assert counted == list(range(1, 40))


def test_names_say_so() -> None:
    figures = {"bits_per_byte": 1.0, "bits_per_byte_web": 2.0, "gzip_bits_per_byte": 3.0}
    assert list(rename_as_bounds(figures)) == [
        "at_most_bits_per_byte",
        "at_most_bits_per_byte_web",
        "gzip_bits_per_byte",
    ]


def masked_folder(data: Path) -> None:
    model_folder(data)
    save_model(data / "rl", toy_model(seed=4, causal=False, vocab_size=262, context=64), TOKENIZER)


def config(**more: Any) -> EvaluateConfig:
    return EvaluateConfig(problems=Arithmetic(digits=1), problems_counted=3, max_new_tokens=4, **more)


def test_the_stage_tells_bits_at_most_and_answers_by_unmasking(tmp_path: Path) -> None:
    masked_folder(tmp_path)
    figures = run(config(bound_draws=4), tmp_path, Log(), "rl")
    size = sum(len(text.encode()) for text in HELD_OUT.values())
    rows = read_table(tmp_path / "evaluate/rl/at_most_bits.parquet").to_pylist()
    assert figures["at_most_bits_per_byte"] == pytest.approx(sum(row["bits"] for row in rows) / size)
    assert "bits_per_byte" not in figures and not (tmp_path / "evaluate/rl/bits.parquet").exists()
    assert (
        7 < figures["at_most_bits_per_byte"] < 11
    )  # of random weights, log2 of 261 a token, of which each text has one more
    assert figures["problems"] == 3
    other = run(config(bound_draws=16), tmp_path, Log(), "rl")
    assert other["at_most_bits_per_byte"] != figures["at_most_bits_per_byte"]


@pytest.mark.parametrize(
    ("key", "value"),
    [("samples", 2), ("decoding", [{"name": "greedy"}]), ("max_overlap", 0.5), ("tasks", [{"name": "needle"}])],
)
def test_what_asks_for_a_next_token_is_refused_in_one_line(tmp_path: Path, key: str, value: Any) -> None:
    masked_folder(tmp_path)
    with pytest.raises(ConfigError, match=f"^evaluate.{key}: the model is one of masked diffusion.*leave it out$"):
        run(EvaluateConfig.model_validate({**config().model_dump(), key: value}), tmp_path, Log(), "rl")
