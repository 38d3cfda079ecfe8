"""Curricula: what every plan must be, whatever the method and the order, and small cases by hand."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.config import methods_of
from tasks.core.config import ConfigError
from tasks.curriculum import methods, orders
from tasks.curriculum.measure import covered
from tasks.curriculum.methods import BestFitPacking, GrowLength, LengthBuckets, ShuffledPacking
from tasks.curriculum.methods.grow_length import stages
from tasks.curriculum.methods.length_buckets import decompose
from tasks.curriculum.orders import ByScore, Shuffled
from tasks.curriculum.plan import FIRST_PREFIX, PADDING, Budget, Documents, Prefixes, Ranges, Stream
from tasks.curriculum.stream import cut_sequences, drawing
from tests.curriculum.corpora import STEP, digest, documents_of, plan_of, predicted, small

PAIRS = [
    pytest.param(method, order, id=f"{method.__name__}-{order.__name__}")
    for method, order in product(methods_of(methods), methods_of(orders))
    if method.takes_orders or order is Shuffled
]
LENGTHS = st.lists(st.integers(3, 90), min_size=4, max_size=25)


def check(plan: Ranges, documents: Documents, steps: int, prefixes: Prefixes | None = None) -> None:
    # in order, steps without a gap
    assert (np.diff(plan.step) >= 0).all() and set(plan.step.tolist()) == set(range(steps))
    # every range inside its document, which is one to train on, or inside its prefix
    place = {int(row): i for i, row in enumerate(documents.row)}
    texts = prefixes.texts if prefixes else []
    for row, offset, length in zip(plan.document, plan.offset, plan.length, strict=True):
        assert length > 0
        if row >= 0:
            assert offset >= 0 and offset + length <= documents.length[place[int(row)]]
        elif row == PADDING:
            assert offset == 0
        else:
            first = sum(map(len, texts[: FIRST_PREFIX - row]))
            assert first <= offset and offset + length <= first + len(texts[FIRST_PREFIX - row])
    for step in range(steps):
        mine = plan.step == step
        sequences = plan.sequence[mine]
        assert (np.diff(sequences) >= 0).all() and set(sequences.tolist()) == set(range(sequences[-1] + 1))
        sizes = np.bincount(sequences, weights=plan.length[mine])
        assert len(set(sizes)) == 1 and (sizes - 1).sum() == STEP  # predictions a step are constant, padding counted
        last = np.flatnonzero(np.diff(sequences, append=-1))
        assert not (np.delete(plan.document[mine], last) == PADDING).any()  # padding is behind all else


@pytest.mark.parametrize(("method", "order"), PAIRS)
@settings(deadline=None, max_examples=20, derandomize=True)
@given(LENGTHS, st.integers(1, 12), st.integers(0, 3))
def test_every_plan(method, order, lengths: list[int], steps: int, seed: int) -> None:
    documents = documents_of(lengths)
    plan = plan_of(small(method), documents, steps, seed, small(order))
    check(plan, documents, steps)
    assert digest(plan) == digest(plan_of(small(method), documents, steps, seed, small(order)))


@pytest.mark.parametrize(("method", "order"), [pair for pair in PAIRS if pair.values[0].takes_orders])
@settings(deadline=None, max_examples=20, derandomize=True)
@given(LENGTHS, st.integers(1, 12), st.lists(st.integers(-1, 2), min_size=25, max_size=25), st.floats(0.1, 1))
def test_every_plan_with_prefixes(method, order, lengths: list[int], steps: int, prefix: list[int], share) -> None:
    documents = documents_of(lengths)
    prefixes = Prefixes(["abc", "", "defgh"], np.array(prefix[: len(documents.row)]), share)
    plan = plan_of(small(method), documents, steps, 0, small(order), prefixes)
    check(plan, documents, steps, prefixes)


@pytest.mark.parametrize("method", methods_of(methods), ids=lambda m: m.__name__)
def test_the_first_round_predicts_no_token_twice(method) -> None:
    documents = documents_of([13] * 180)
    found = predicted(plan_of(small(method), documents, steps=30))
    assert len(found) == len(set(found)) <= 30 * STEP < documents.length.sum()
    assert len(found) == 30 * STEP or method is BestFitPacking  # which has padding


@pytest.mark.parametrize(("method", "order"), PAIRS)
def test_seeds_give_other_plans_of_the_same_size(method, order) -> None:
    one, other = (plan_of(small(method), documents_of([40] * 60), 30, seed, small(order)) for seed in (0, 1))
    assert digest(one) != digest(other)


def test_plans_of_the_first_two_methods_stay_what_they_were() -> None:
    lengths = 3 + (np.arange(300) * 7919) % 211
    starts, rows = np.cumsum(lengths) - lengths, np.flatnonzero(np.arange(300) % 5 != 2)
    documents = Documents(rows, lengths[rows])
    for method, few, many in (
        (ShuffledPacking(sequence_length=48), "d0836e875dcee4a6", "074e6e36fa511ea4"),
        (LengthBuckets(min_length=8, max_length=64), "04d0caa206fcae50", "b28318561d36265b"),
    ):
        for steps, wanted in ((20, few), (700, many)):  # 700: five rounds
            plan = plan_of(method, documents, steps, 3, step=192)
            in_tokens = replace(plan, offset=starts[plan.document] + plan.offset)  # documents end to end
            assert digest(in_tokens) == wanted


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), max_size=12))
def test_what_intervals_cover_is_counted_once(intervals: list[tuple[int, int]]) -> None:
    starts, lengths = (np.array([pair[i] for pair in intervals], dtype=np.int64) for i in (0, 1))
    wanted = {number for start, length in intervals for number in range(start, start + length)}
    assert covered(starts, starts + lengths) == len(wanted)


def test_cutting_by_hand() -> None:
    stream = Stream(np.array([1, 0]), np.array([0, 0]), np.array([4, 5]), None)
    plan = cut_sequences(stream, np.array([4, 0]), length=4, per_step=1, longest=9, seed=0)
    # the piece from 4 on is all of document 0, the first is document 1 and a token of 0
    assert list(zip(plan.step, plan.document, plan.offset, plan.length, strict=True)) == [
        (0, 0, 0, 5),
        (1, 1, 0, 4),
        (1, 0, 0, 1),
    ]


def test_a_step_of_shuffled_packing_holds_many_documents() -> None:
    documents = Documents(np.arange(50), np.full(50, 160))
    plan = plan_of(ShuffledPacking(sequence_length=16), documents, 16, step=256)
    mine = [len(np.unique(plan.document[plan.step == step])) for step in range(16)]
    assert np.mean(mine) > 10  # 16 neighbouring sequences would hold two documents and a piece of a third


def test_decomposition_by_hand() -> None:
    # 30 tokens give 29 predictions: 16 + 8 + 4, and 1 is below the shortest
    document, offset, length = decompose(np.array([30]), 2, 16)
    assert list(zip(document, offset, length, strict=True)) == [(0, 0, 16), (0, 16, 8), (0, 24, 4)]


def test_length_buckets_mix_no_documents_and_go_from_short_to_long() -> None:
    plan = plan_of(small(LengthBuckets), documents_of([31] * 200), 40)
    assert len(plan.step) == len(np.unique(plan.step.astype(np.int64) * 1000 + plan.sequence))
    lengths = np.array([plan.length[plan.step == s][0] - 1 for s in range(40)])
    assert set(lengths) == {2, 4, 8, 16}
    first_cycle, second_cycle = lengths[:20], lengths[20:]
    for cycle in (first_cycle, second_cycle):
        assert cycle[: len(cycle) // 2].mean() < cycle[len(cycle) // 2 :].mean()


def test_lengths_grow_in_stages_of_as_many_steps() -> None:
    assert stages(4, 16, 7) == [(4, 0, 2), (8, 2, 2), (16, 4, 3)]
    assert stages(4, 16, 2) == [(8, 0, 1), (16, 1, 1)]
    plan = plan_of(small(GrowLength), documents_of([40] * 60), 30)
    lengths = [plan.length[(plan.step == s) & (plan.sequence == 0)].sum() - 1 for s in range(30)]
    assert lengths == [4] * 10 + [8] * 10 + [16] * 10
    assert len(predicted(plan)) == len(set(predicted(plan))) == 30 * STEP  # stages share no token


def test_what_cannot_be_planned_names_the_keys() -> None:
    documents = documents_of([40] * 6)
    draw = drawing(documents, Shuffled(), None, np.zeros(0, dtype=np.int64), 0)
    for method in (ShuffledPacking, BestFitPacking):
        with pytest.raises(ConfigError, match="tokens_per_step: 8 is less than one sequence of curriculum.method.seq"):
            method(sequence_length=16)(documents, draw, Budget(64, 8), 0)
    for method in (LengthBuckets, GrowLength):
        with pytest.raises(ConfigError, match="no multiple of curriculum.method.max_length"):
            method(min_length=2, max_length=16)(documents, draw, Budget(64, 24), 0)
    with pytest.raises(ConfigError, match="no document has more than 64 tokens"):
        LengthBuckets(min_length=64, max_length=64)(documents, draw, Budget(64, 64), 0)
    with pytest.raises(ValueError, match="powers of two"):
        LengthBuckets(min_length=3)
    with pytest.raises(ValueError, match="48 is not 32 times one"):
        GrowLength(min_length=32, max_length=48)
    with pytest.raises(ConfigError, match=r"curriculum.order: best_fit_packing cannot keep a strict order"):
        plan_of(BestFitPacking(sequence_length=16), documents, 1, order=ByScore(score="length"))
    with pytest.raises(ConfigError, match="curriculum.prefix: a prefix of 20 tokens fills a sequence of 17"):
        plan_of(small(BestFitPacking), documents, 1, prefixes=Prefixes(["x" * 20], np.zeros(len(documents.row), int)))
