"""How sources share the places of a run: what every mixture must do, and shares worked by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.config import Config, methods_of
from tasks.sft import mixtures
from tasks.sft.mixtures import Even, InTurn, Proportional
from tasks.sft.mixtures.even import spread_sources
from tasks.sft.mixtures.proportional import rates

WEIGHTS = st.lists(st.floats(0.05, 20), min_size=1, max_size=5)
EVERY = pytest.mark.parametrize("method", methods_of(mixtures), ids=lambda method: method.__name__)


@settings(max_examples=60, derandomize=True)
@given(weights=WEIGHTS, count=st.integers(0, 300))
def test_every_stretch_of_places_has_its_share_of_each_source(weights: list[float], count: int) -> None:
    found = spread_sources(weights, count)
    assert len(found) == count and np.array_equal(found, spread_sources(weights, count + 17)[:count])
    for source, weight in enumerate(weights):
        reached = np.cumsum(found == source)
        assert np.all(
            np.abs(reached - weight / sum(weights) * np.arange(1, count + 1)) <= (len(weights) + 1) / 2 + 1e-9
        )


@EVERY
@settings(max_examples=60, derandomize=True)
@given(
    sources=st.lists(st.tuples(st.floats(0.05, 20), st.integers(1, 10**6)), min_size=1, max_size=5),
    places=st.integers(0, 300),
)
def test_a_mixture_fills_every_place_by_weights_and_counts_alone(
    method: type[Config], sources: list[tuple[float, int]], places: int
) -> None:
    weights, counts = [weight for weight, _ in sources], [count for _, count in sources]
    found = method()(weights, counts, places)
    assert found.shape == (places,) and np.issubdtype(found.dtype, np.integer)
    assert np.array_equal(found, method()(weights, counts, places))
    assert np.array_equal(found, method()([4 * weight for weight in weights], counts, places))  # shares are relative
    assert set(found.tolist()) <= set(range(len(sources)))
    own = weights if method is not Proportional else rates(weights, counts, Proportional().limit, 1.0)
    for source, weight in enumerate(own):
        assert abs((found == source).sum() - places * weight / sum(own)) <= (len(sources) + 1) / 2 + 1e-6


def test_phases_by_hand() -> None:
    # weights 1, 2 and 1 of 10 places: borders at 2.5, which rounds to 2, at 7.5, to 8, and at 10
    assert InTurn()([1, 2, 1], [5, 5, 5], 10).tolist() == [0, 0, 1, 1, 1, 1, 1, 1, 2, 2]
    assert Even()([1, 2, 1], [5, 5, 5], 4).tolist() == [1, 0, 2, 1]


def test_proportions_by_hand() -> None:
    # 100 and 4 examples, of which 64 count at most: 64 to 4; at temperature 2, 8 to 2; a weight of 3 multiplies
    assert rates([1, 1], [100, 4], 64, 1.0) == pytest.approx([64 / 68, 4 / 68])
    assert rates([1, 1], [100, 4], 64, 2.0) == pytest.approx([0.8, 0.2])
    assert rates([1, 3], [100, 4], 64, 2.0) == pytest.approx([8 / 14, 6 / 14])
    found = Proportional(limit=64, temperature=2.0)([1, 1], [100, 4], 50)
    assert np.bincount(found).tolist() == [40, 10]
