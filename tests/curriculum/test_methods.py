"""Curricula: what every plan must be, whatever the method, and small cases by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.config import methods_of
from tasks.core.config import ConfigError
from tasks.curriculum import methods
from tasks.curriculum.methods import LengthBuckets, ShuffledPacking
from tasks.curriculum.methods.length_buckets import decompose
from tasks.curriculum.methods.shuffled_packing import pack
from tasks.curriculum.plan import Budget, Documents, Ranges

SMALL = {
    "shuffled_packing": {"sequence_length": 16},
    "length_buckets": {"min_length": 2, "max_length": 16, "cycles": 2},
}


def documents_of(lengths: list[int], held_out_every: int = 3) -> Documents:
    """Documents laid end to end, of which every third is left out, as held-out ones are."""
    all_lengths = np.array(lengths, dtype=np.int64)
    starts = np.cumsum(all_lengths) - all_lengths
    rows = np.array([i for i in range(len(lengths)) if i % held_out_every != 1 or len(lengths) < 3])
    return Documents(rows, starts[rows], all_lengths[rows])


def plan_of(method, lengths: list[int], steps: int, seed: int = 0) -> tuple[Ranges, Documents]:
    documents = documents_of(lengths)
    return method(**SMALL[method.model_fields["name"].default])(documents, Budget(steps * 32, 32), seed), documents


@pytest.mark.parametrize("method", methods_of(methods), ids=lambda m: m.__name__)
@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.lists(st.integers(3, 90), min_size=1, max_size=25), st.integers(1, 12), st.integers(0, 3))
def test_every_plan(method, lengths: list[int], steps: int, seed: int) -> None:
    plan, documents = plan_of(method, lengths, steps, seed)
    # in order, steps without a gap
    assert (np.diff(plan.step) >= 0).all() and set(plan.step.tolist()) == set(range(steps))
    # every range inside its document, which is one to train on
    place = {int(row): i for i, row in enumerate(documents.row)}
    for row, start, length in zip(plan.document, plan.start, plan.length, strict=True):
        i = place[int(row)]
        assert documents.start[i] <= start and start + length <= documents.start[i] + documents.length[i] and length > 0
    for step in range(steps):
        mine = plan.step == step
        sequences = plan.sequence[mine]
        assert (np.diff(sequences) >= 0).all() and set(sequences.tolist()) == set(range(sequences[-1] + 1))
        sizes = np.bincount(sequences, weights=plan.length[mine])
        assert len(set(sizes)) == 1 and (sizes - 1).sum() == 32  # predictions a step are constant
    again, _ = plan_of(method, lengths, steps, seed)
    assert all(
        np.array_equal(getattr(plan, c), getattr(again, c)) for c in ("step", "sequence", "document", "start", "length")
    )


@pytest.mark.parametrize("method", methods_of(methods), ids=lambda m: m.__name__)
def test_the_first_round_predicts_no_token_twice(method) -> None:
    plan, documents = plan_of(method, [40] * 60, steps=30)
    predicted: list[int] = []
    for step in range(30):
        mine = plan.step == step
        for sequence in np.unique(plan.sequence[mine]):
            which = np.flatnonzero(mine & (plan.sequence == sequence))
            ids = np.concatenate([np.arange(plan.start[i], plan.start[i] + plan.length[i]) for i in which])
            predicted += ids[1:].tolist()
    assert len(predicted) == len(set(predicted)) == 30 * 32 < documents.length.sum()


@pytest.mark.parametrize("method", methods_of(methods), ids=lambda m: m.__name__)
def test_seeds_give_other_plans_of_the_same_size(method) -> None:
    one, other = (plan_of(method, [40] * 60, 30, seed)[0] for seed in (0, 1))
    assert not np.array_equal(one.start, other.start)


def test_packing_by_hand() -> None:
    documents = Documents(np.array([0, 1]), np.array([0, 5]), np.array([5, 4]))
    plan = pack(documents, np.array([1, 0]), np.array([1, 0]), per_step=1, length=4)
    # the stream is 5 6 7 8 | 0 1 2 3 4: its second piece is 0 1 2 3 4, its first 5 6 7 8 0
    assert list(zip(plan.step, plan.document, plan.start, plan.length, strict=True)) == [
        (0, 0, 0, 5),
        (1, 1, 5, 4),
        (1, 0, 0, 1),
    ]


def test_a_step_of_shuffled_packing_holds_many_documents() -> None:
    documents = Documents(np.arange(50), np.arange(50) * 160, np.full(50, 160))
    plan = ShuffledPacking(sequence_length=16)(documents, Budget(4096, 256), 0)
    mine = [len(np.unique(plan.document[plan.step == step])) for step in range(16)]
    assert np.mean(mine) > 10  # 16 neighbouring sequences would hold two documents and a piece of a third


def test_decomposition_by_hand() -> None:
    # 30 tokens give 29 predictions: 16 + 8 + 4, and 1 is below the shortest
    document, start, length = decompose(np.array([30]), 2, 16)
    assert list(zip(document, start, length, strict=True)) == [(0, 0, 16), (0, 16, 8), (0, 24, 4)]


def test_length_buckets_mix_no_documents_and_go_from_short_to_long() -> None:
    plan, _ = plan_of(LengthBuckets, [31] * 200, 40)
    assert len(plan.step) == len(np.unique(plan.step.astype(np.int64) * 1000 + plan.sequence))
    lengths = np.array([plan.length[plan.step == s][0] - 1 for s in range(40)])
    assert set(lengths) == {2, 4, 8, 16}
    first_cycle, second_cycle = lengths[:20], lengths[20:]
    for cycle in (first_cycle, second_cycle):
        assert cycle[: len(cycle) // 2].mean() < cycle[len(cycle) // 2 :].mean()


def test_what_cannot_be_planned_names_the_keys() -> None:
    documents = documents_of([40] * 6)
    with pytest.raises(ConfigError, match="curriculum.tokens_per_step: 8 is less than one sequence"):
        ShuffledPacking(sequence_length=16)(documents, Budget(64, 8), 0)
    with pytest.raises(ConfigError, match="no multiple of curriculum.method.max_length"):
        LengthBuckets(min_length=2, max_length=16)(documents, Budget(64, 24), 0)
    with pytest.raises(ConfigError, match="no document has more than 64 tokens"):
        LengthBuckets(min_length=64, max_length=64)(documents, Budget(64, 64), 0)
    with pytest.raises(ValueError, match="powers of two"):
        LengthBuckets(min_length=3)
