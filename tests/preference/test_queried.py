"""Active queries: which pairs are worth a label, by hand and by sampling, and what a stage does of it."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.config import ConfigError
from lm.pairs import Files
from lm.pairs.base import SourceInputs
from lm.pairs.collect import collect_pairs
from lm.pairs.query import Query, expected_disagreement, features, select_label_queries
from lm.training.data.conversations import Conversation
from tests.preference.made import TOKENIZER, Parity, rows, write_rows, writer


def test_by_hand() -> None:
    # Ridge 4: the first direction is 2 / sqrt(pi) / 2 = 0.564 of disagreement, after one label 1 / (4 + 1) of variance: 0.505, then 0.461
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [-1.0, 0.0], [0.1, 0.0]]).double()
    assert expected_disagreement(x[0], torch.eye(2).double() / 4) == pytest.approx(1 / math.sqrt(math.pi))
    assert select_label_queries(x, 0.45, 4.0) == [True, True, True, True, False]
    assert select_label_queries(x, 0.48, 4.0) == [True, True, True, False, False]
    assert select_label_queries(x, 0.52, 4.0) == [True, False, True, False, False]
    assert select_label_queries(x, 0.6, 4.0) == [False] * 5


def test_disagreement_is_that_of_two_models_drawn_from_the_posterior() -> None:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    x, covariance = torch.tensor([0.3, -1.0, 0.5]).double(), root @ root.T
    drawn = torch.randn(2, 200_000, 3, generator=generator, dtype=torch.float64) @ root.T
    found = ((drawn[0] - drawn[1]) @ x).abs()
    # six standard errors of the mean of so many
    assert found.mean().item() == pytest.approx(expected_disagreement(x, covariance), abs=6 * found.std().item() / 447)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.integers(0, 1000), st.floats(0.05, 2.0), st.floats(0.2, 5.0))
def test_a_label_is_never_needed_to_know_whether_to_ask(seed: int, above: float, ridge: float) -> None:
    """Answers that change places change nothing; a pair that was asked for is asked for less often after more labels; a lower
    threshold asks for no less; the covariance is the inverse that it stands for."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(12, 4, generator=generator, dtype=torch.float64) / 2
    found = select_label_queries(x, above, ridge)
    signs = torch.randint(0, 2, (12, 1), generator=generator) * 2 - 1
    assert select_label_queries(x * signs, above, ridge) == found
    inverse = torch.linalg.inv(ridge * torch.eye(4).double() + sum(torch.outer(y, y) for y in x[torch.tensor(found)]))
    for y in x:  # what is asked next is told by the inverse of ridge and what was asked
        assert select_label_queries(torch.cat((x, y[None])), above, ridge)[-1] == (
            expected_disagreement(y, inverse) > above
        )
    assert found[0] == (2 / math.sqrt(math.pi * ridge) * x[0].norm().item() > above)


def test_features_are_of_each_answer_alone() -> None:
    model = writer()
    chosen, rejected = (
        [Conversation([5, 6, 7 + n], [20 + n + side] * (1 + (n + side) % 4)) for n in range(20)] for side in (0, 1)
    )
    found = features(model, chosen, rejected, TOKENIZER.pad_id)
    each_PD = []
    for n in range(20):
        each = []
        for conversation in (chosen[n], rejected[n]):
            ids = torch.tensor([conversation.prompt + conversation.completion])
            with torch.no_grad():
                each.append(model.hidden(ids)[0, -1].double())
        each_PD.append(each[0] - each[1])
    expected = torch.stack(each_PD)
    torch.testing.assert_close(found, expected / expected.norm(dim=1).max(), rtol=1e-4, atol=1e-5)
    assert found.norm(dim=1).max().item() == pytest.approx(1)
    assert not features(model, chosen, chosen, TOKENIZER.pad_id).any()
    torch.testing.assert_close(features(model, rejected, chosen, TOKENIZER.pad_id), -found, rtol=1e-4, atol=1e-5)


def given_files(folder: Path) -> SourceInputs:
    path = write_rows(folder, rows(40))
    return SourceInputs("preference.pairs", folder, lambda: [path / "pairs.jsonl"], Parity(), writer(), TOKENIZER, 0)


def test_pairs_that_are_not_asked_for_are_in_quarantine_and_what_is_held_out_stays(tmp_path: Path) -> None:
    given = given_files(tmp_path)
    every = collect_pairs([Files()], given, 0.2)
    some = collect_pairs([Files()], given, 0.2, Query(above=0.5))
    held_out = [row for row in every.table.to_pylist() if row["held_out"]]
    assert [row for row in some.table.to_pylist() if row["held_out"]] == held_out != []
    assert 0 < len(some.places(False)) < len(every.places(False))
    assert some.reasons() == {"not_queried": len(every) - len(some)}
    assert all(row["where"].startswith("pairs.jsonl:") for row in some.quarantine.to_pylist())
    fewer = collect_pairs([Files()], given, 0.2, Query(above=0.8))
    assert len(fewer) < len(some)
    with pytest.raises(ConfigError, match=r"^preference.pairs: not one pair to learn from \(not_queried "):
        collect_pairs([Files()], given, 0.2, Query(above=9.0))
