"""Prefixes, and the figures of a plan, on cases by hand."""

import numpy as np
import pytest

from tasks.curriculum.measure import metrics_of
from tasks.curriculum.plan import PADDING, Documents, Ranges
from tasks.curriculum.prefixes import ControlTokens, MetadataConditioning

DOCUMENTS = Documents(
    np.array([0, 1, 2, 4]),
    np.array([6, 4, 10, 5]),
    np.array([0, 1, 0, 1], np.int32),
    ("web", "books"),
    {"clean": np.array([0.2, 0.5, 0.9, 0.5], np.float32)},
)


def test_metadata_is_left_out_of_the_last_share() -> None:
    prefixes = MetadataConditioning(template="From {source}: ", cooldown=0.2)(DOCUMENTS, 0)
    assert prefixes.texts == ["From web: ", "From books: "] and prefixes.of_document.tolist() == [0, 1, 0, 1]
    assert prefixes.share == pytest.approx(0.8)


@pytest.mark.parametrize(("lower", "expected"), [(False, [1, 0, 0, 0]), (True, [0, 0, 1, 0])])
def test_a_score_at_the_threshold_is_good(lower: bool, expected: list[int]) -> None:
    prefix = ControlTokens(score="clean", threshold=0.5, lower_is_better=lower, dropout=0.0)
    assert prefix(DOCUMENTS, 0).of_document.tolist() == expected


def test_the_figures_of_a_plan_by_hand() -> None:
    """Two steps of a sequence of 8 tokens each: document 0 whole and two tokens of 2; then two of 2 again, 4 whole, padding."""
    plan = Ranges(
        np.array([0, 0, 1, 1, 1]),
        np.array([0, 0, 0, 0, 0]),
        np.array([0, 2, 2, 4, PADDING]),
        np.array([0, 0, 0, 0, 0]),
        np.array([6, 2, 2, 5, 1]),
    )
    figures = metrics_of(plan, DOCUMENTS)
    assert (figures["steps"], figures["sequences"], figures["tokens"]) == (2, 2, 13)  # 16 tokens, 2 firsts, 1 padding
    assert figures["epochs"] == pytest.approx((15 - 2) / 25)
    assert figures["unique_token_fraction"] == pytest.approx(13 / 25)  # 6 of document 0, 2 of 2, 5 of 4
    assert figures["padding_fraction"] == pytest.approx(1 / 16)
    assert figures["truncated_fraction"] == pytest.approx(1 / 3)
    assert figures["cropped_fraction"] == pytest.approx(1 - 13 / 21)
    assert figures["share_web"] == pytest.approx(10 / 15) and figures["share_books"] == pytest.approx(5 / 15)
