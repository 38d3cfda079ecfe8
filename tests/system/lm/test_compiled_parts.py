"""Blocks of every mixer and router that layers with a share of the tokens, or experts, are made of: what dynamo traces of them."""

from typing import Any

import pytest
import torch

from tests.lm.made_parts import CLOSE, MIXERS, ids_of
from tests.lm.models import toy_model
from tests.lm.test_mixture_of_depths import SOME, compiled_blocks_are_a_graph_each
from tests.lm.test_routing import WAYS, compiled_blocks_are_one_graph


# how a layer draws its tokens is no matter of its mixer
@pytest.mark.parametrize(("mixer", "trains"), [*((mixer, True) for mixer in MIXERS[1:]), (MIXERS[0], False)])
def test_blocks_with_a_share_of_the_tokens_are_a_graph_each(mixer: type[Any], trains: bool) -> None:
    compiled_blocks_are_a_graph_each(mixer, trains)


@pytest.mark.parametrize("way", WAYS[1:])
def test_blocks_of_routed_experts_are_one_graph(way: dict[str, Any]) -> None:
    compiled_blocks_are_one_graph(way)


def test_a_graph_for_rows_of_all_lengths() -> None:
    model = toy_model(**{**SOME, "layers": 1}).train()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    plain, model._run = model._run, torch.compile(model._run, backend="aot_eager", fullgraph=True, dynamic=True)
    for length in (9, 12, 15, 23):
        found = model(ids_of(2, length))
        model._run, run = plain, model._run
        torch.testing.assert_close(found, model(ids_of(2, length)), **CLOSE)
        model._run = run
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2
