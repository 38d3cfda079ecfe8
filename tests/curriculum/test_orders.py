"""Orders: what each promises of the documents that it draws, on corpora small enough to count."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.config import methods_of
from tasks.core.config import ConfigError
from tasks.curriculum import orders
from tasks.curriculum.methods import ShuffledPacking
from tasks.curriculum.orders import ByScore, LossWindow, Mixture, RepeatedSubsets, Shuffled, TwoSet
from tasks.curriculum.orders.loss_window import clusters_of
from tasks.curriculum.plan import Documents
from tests.curriculum.corpora import documents_of, plan_of, small

CORPUS = documents_of([5 + 7 * i % 23 for i in range(600)])


@pytest.mark.parametrize("order", methods_of(orders), ids=lambda o: o.__name__)
@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.lists(st.integers(1, 90), min_size=4, max_size=25), st.integers(1, 3000), st.integers(0, 3))
def test_every_order(order, lengths: list[int], tokens: int, seed: int) -> None:
    documents = documents_of(lengths)
    drawn = small(order)(documents, tokens, seed)
    assert documents.length[drawn.document].sum() >= tokens
    assert (drawn.window is None) or (
        len(drawn.window) == len(drawn.document) and drawn.window[0] >= 0 and (np.diff(drawn.window) >= 0).all()
    )
    again = small(order)(documents, tokens, seed)
    assert np.array_equal(drawn.document, again.document)


@pytest.mark.parametrize("order", [Shuffled(), ByScore(score="quality"), RepeatedSubsets()], ids=lambda o: o.name)
def test_a_round_has_every_document_once(order) -> None:
    drawn = order(CORPUS, int(CORPUS.length.sum()), 0).document
    assert sorted(drawn) == list(range(len(CORPUS.row)))


def test_scores_ascend_over_the_run_and_within_each_cycle() -> None:
    tokens = int(CORPUS.length.sum()) // 2
    quality = CORPUS.scores["quality"]
    drawn = ByScore(score="quality")(CORPUS, tokens, 0)
    assert drawn.window is None and (np.diff(quality[drawn.document]) >= 0).all()
    assert quality[drawn.document[-1]] > 0.99 * quality.max()  # half the corpus, but of all qualities
    down = ByScore(score="quality", descending=True, cycles=3)(CORPUS, tokens, 0).document
    rises = np.flatnonzero(np.diff(quality[down]) > 0)
    assert len(rises) == 2 and sorted(down) == sorted(drawn.document)


def test_bins_are_quantiles_in_random_order() -> None:
    drawn = ByScore(score="quality", bins=4)(CORPUS, int(CORPUS.length.sum()), 0)
    quality = CORPUS.scores["quality"][drawn.document]
    parts = [quality[drawn.window == window] for window in range(4)]
    assert all(a.max() < b.min() for a, b in zip(parts[:-1], parts[1:], strict=True))
    assert all((np.diff(part) < 0).any() for part in parts)
    sizes = np.bincount(drawn.window, CORPUS.length[drawn.document])
    assert np.ptp(sizes) <= 2 * CORPUS.length.max()


def test_equal_scores_keep_the_random_order_of_the_draw() -> None:
    flat = Documents(CORPUS.row, CORPUS.length, scores={"quality": np.zeros(len(CORPUS.row))})
    tokens = int(CORPUS.length.sum())
    assert np.array_equal(ByScore(score="quality")(flat, tokens, 5).document, Shuffled()(flat, tokens, 5).document)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.floats(0.05, 0.95), st.floats(0, 1), st.integers(1000, 20_000))
def test_a_mixture_has_its_weights_in_every_phase(share: float, weight: float, tokens: int) -> None:
    phases = [{"share": share}, {"share": 1 - share, "weights": {"a": weight, "b": 1 - weight}}]
    order = Mixture(phases=phases)
    drawn = order(CORPUS, tokens, 0)
    natural = CORPUS.length[CORPUS.source == 0].sum() / CORPUS.length.sum()
    sizes = [round(tokens * share), tokens - round(tokens * share)]
    for window, (first, size) in enumerate(zip((natural, weight), sizes, strict=True)):
        mine = drawn.document[drawn.window == window]
        for source, wanted in enumerate((first, 1 - first)):
            got = CORPUS.length[mine[CORPUS.source[mine] == source]].sum()
            assert abs(got - wanted * size) <= CORPUS.length.max() + 1


def test_a_plan_of_a_mixture_has_its_weights_to_a_sequence() -> None:
    order = Mixture(phases=[{"share": 0.5, "weights": {"a": 1.0}}, {"share": 0.5, "weights": {"a": 0.3, "b": 0.7}}])
    plan = plan_of(ShuffledPacking(sequence_length=32), CORPUS, 100, order=order)
    source = CORPUS.source[np.searchsorted(CORPUS.row, plan.document)]
    late = plan.step >= 50
    assert plan.length[(source == 1) & ~late].sum() <= 33
    # a share over 50 sequences; neighbours share a token
    assert abs(plan.length[late & (source == 1)].sum() - 0.7 * 50 * 33) <= 2 * 33


def test_a_phase_goes_on_where_the_one_before_stopped() -> None:
    tokens = int(CORPUS.length.sum()) - 200
    drawn = Mixture(phases=[{"share": 0.5}, {"share": 0.5}])(CORPUS, tokens, 0).document
    assert len(drawn) == len(set(drawn.tolist()))


def test_the_repeated_set_has_its_share_of_the_tokens() -> None:
    order = TwoSet(repeated=0.1, share=0.2)
    drawn = order(CORPUS, int(CORPUS.length.sum()), 0).document
    times = np.bincount(drawn, minlength=len(CORPUS.row))
    repeated = np.isin(drawn, np.argsort(-times, kind="stable")[:40])
    assert abs(CORPUS.length[drawn[repeated]].sum() / CORPUS.length[drawn].sum() - 0.2) < 0.01


def test_two_sets_repeat_one_and_not_the_other() -> None:
    drawn = TwoSet(repeated=0.1, share=0.5)(CORPUS, int(CORPUS.length.sum()), 0).document
    times = np.bincount(drawn, minlength=len(CORPUS.row))
    often = np.sort(times)[::-1]
    assert (often[:40] >= 4).all() and often[40] == 1  # 400 documents; half the tokens from 40 of them
    assert often[0] - often[39] <= 1
    repeated = np.isin(drawn, np.flatnonzero(times > 1))
    assert abs(CORPUS.length[drawn[repeated]].sum() / CORPUS.length[drawn].sum() - 0.5) < 0.01
    halves = repeated[: len(drawn) // 2].mean(), repeated[len(drawn) // 2 :].mean()
    assert abs(halves[0] - halves[1]) < 0.1  # spread over the whole run


@pytest.mark.parametrize("replacement", [False, True])
def test_every_epoch_has_another_random_subset(replacement: bool) -> None:
    order = RepeatedSubsets(fraction=0.25, replacement=replacement)
    drawn = order(CORPUS, 2 * int(CORPUS.length.sum()), 0)
    epochs = [drawn.document[drawn.window == e] for e in range(7)]
    assert all(len(set(epoch.tolist())) == 100 for epoch in epochs)
    seen = [set(epoch.tolist()) for epoch in epochs]
    overlaps = [len(a & b) for a, b in zip(seen[:3], seen[1:4], strict=True)]
    assert len(set(map(frozenset, seen))) == 7
    assert all(15 < overlap < 40 for overlap in overlaps) if replacement else overlaps == [0, 0, 0]


def test_clusters_by_hand_and_when_values_are_alike() -> None:
    assert clusters_of(np.array([9.0, 1, 1.5, 8.5, 5, 1.2]), 3).tolist() == [2, 0, 0, 2, 1, 0]
    assert clusters_of(np.full(7, 2.5), 3).tolist() == [0] * 7
    assert clusters_of(np.array([3.0]), 5).tolist() == [0]


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=60), st.integers(1, 6))
def test_clusters_are_intervals_and_have_the_nearest_centre(values: list[float], count: int) -> None:
    found = clusters_of(np.array(values), count)
    assert found.min() == 0 and found.max() < count
    ordered = found[np.argsort(values, kind="stable")]
    assert (np.diff(ordered) >= 0).all()


def test_the_window_slides_from_easy_to_hard_and_opens_at_the_end() -> None:
    order = LossWindow(score="quality", clusters=4, window=0.5, epochs=3, anneal=0.25, drop=0.2)
    drawn = order(CORPUS, 4 * int(CORPUS.length.sum()), 0)
    cluster = clusters_of(CORPUS.scores["quality"], 4)
    seen = [set(cluster[drawn.document[drawn.window == epoch]].tolist()) for epoch in range(4)]
    assert seen == [{0, 1}, {1, 2}, {2, 3}, {0, 1, 2, 3}]
    inside = (cluster == 0) | (cluster == 1)
    assert len(np.unique(drawn.document[drawn.window == 0])) == round(0.8 * inside.sum())


def test_errors_name_the_key() -> None:
    with pytest.raises(
        ConfigError, match=r"order.score: the documents have no score 'x' \(they have: length, quality\)"
    ):
        ByScore(score="x")(CORPUS, 10, 0)
    scores = {"quality": np.array([np.nan] + [0.5] * (len(CORPUS.row) - 1))}
    holed = Documents(CORPUS.row, CORPUS.length, scores=scores)
    with pytest.raises(ConfigError, match="order.score: 1 of 400 documents have no score 'quality'"):
        LossWindow(score="quality")(holed, 10, 0)
    with pytest.raises(ConfigError, match=r"phases.0.weights: no documents of source 'c' \(there are: a, b\)"):
        Mixture(phases=[{"share": 1.0, "weights": {"c": 1.0}}])(CORPUS, 10, 0)
    with pytest.raises(ValueError, match="shares of the phases must add up to 1, not 0.5"):
        Mixture(phases=[{"share": 0.5}])
    with pytest.raises(ValueError, match="weights must not be negative"):
        Mixture(phases=[{"share": 1.0, "weights": {"a": 0.0}}])
