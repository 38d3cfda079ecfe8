"""What a backward makes anew: the same weights to the bit whatever the policy, memory in its order, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from lm.config import ConfigError
from lm.training import recomputing
from lm.training.batch import backward, with_auxiliary
from lm.training.execution import set_recomputation
from lm.training.memory import saved_activation_bytes
from lm.training.parallel import make_parallel
from lm.training.recomputing import Selective, is_kept, selective_of
from tasks.core.log import Stopped
from tests.lm.models import toy_model
from tests.lm.test_batch import batch_of
from tests.lm.test_training import Recorder, fit, recipe

POLICIES = ["auto", "none", "whole", "selective"]


def test_no_policy_changes_a_weight(tmp_path: Path) -> None:
    found = {policy: fit(recipe(recompute=policy, compile="off"), Recorder(tmp_path / policy)) for policy in POLICIES}
    for policy in POLICIES[1:]:
        assert all(torch.equal(weight, found[policy][name]) for name, weight in found["auto"].items()), policy


def test_a_resumed_run_has_its_policy(tmp_path: Path) -> None:
    how = recipe(recompute="selective")
    whole = fit(how, Recorder(tmp_path / "whole"))
    with pytest.raises(Stopped):
        fit(how, Recorder(tmp_path / "cut", 4))
    resumed = fit(how, Recorder(tmp_path / "cut"))
    assert all(torch.equal(weight, resumed[name]) for name, weight in whole.items())


def kept(policy: str, **shape: Any) -> int:
    model = toy_model(layers=6, **shape)
    set_recomputation(model, recipe(recompute=policy), 1)
    return saved_activation_bytes(model, batch_of(model))


def test_memory_is_least_for_whole_and_most_for_none() -> None:
    assert kept("whole") < kept("selective") < kept("none") == kept("auto")


@pytest.mark.parametrize("mixer", ["strided_blocks", "gated_blocks", "hashed_buckets"])
def test_attention_over_blocks_is_kept_and_its_gradients_are_the_same(mixer: str) -> None:
    of_mixer = {
        "strided_blocks": "block_attention",
        "gated_blocks": "block_gate_loss",
        "hashed_buckets": "hashed_attention",
    }
    assert is_kept(getattr(torch.ops.tokenmill, of_mixer[mixer]).default)
    found = []
    for policy in ("none", "selective"):
        model = toy_model(mixer={"name": mixer})
        set_recomputation(model, recipe(recompute=policy), 1)
        backward(with_auxiliary(batch_of(model), model), 1000)
        found.append({name: weight.grad for name, weight in model.named_parameters()})
    assert all(torch.equal(gradient, found[1][name]) for name, gradient in found[0].items())


def test_a_measure_counts_what_products_made() -> None:
    """Beside each block's input at least the results of its two widest products, gate and up."""
    model, batch = toy_model(layers=6), batch_of(toy_model())
    widest = 2 * 4 * batch.length * model.config.ffn_width
    assert kept("selective") - kept("whole") >= 6 * widest


def test_what_is_kept_is_products_and_let_go_by_the_backward() -> None:
    model = toy_model()
    set_recomputation(model, recipe(recompute="selective"), 1)
    selective = selective_of(model)
    assert isinstance(selective, Selective)
    batch = batch_of(model)
    loss, _ = batch.loss(slice(0, batch.rows))
    tensors = selective.saved_tensors()
    # of a block: query, key and value, attention's results, its output, gate and up, down
    assert len(tensors) >= 7 * len(model.blocks)
    loss.backward()
    del loss
    assert selective.saved_tensors() == []


@pytest.mark.parametrize("shape", [{}, {"feed_forward": {"name": "experts", "experts": 3, "active": 2}}])
def test_no_product_of_a_block_is_made_twice(shape: dict[str, Any]) -> None:
    """Products are counted below autograd, with and without the policy: whole makes those of the forward again. Those of experts
    are one operator, which is counted by its own name."""

    def products(policy: str) -> int:
        count = 0

        class Counting(torch.utils._python_dispatch.TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                nonlocal count
                grouped = func is torch.ops.tokenmill.grouped_products.default
                count += grouped if shape else is_kept(func)
                return func(*args, **(kwargs or {}))

        model = toy_model(**shape)
        set_recomputation(model, recipe(recompute=policy), 1)
        with Counting():
            backward(batch_of(model), 10_000)
        return count

    assert 0 < products("selective") == products("none") < products("whole")


def test_auto_recomputes_where_no_row_fits_and_none_never_does() -> None:
    model = toy_model()
    for policy, positions, expected in (("auto", 1, False), ("auto", 0, True), ("none", 0, False), ("whole", 9, True)):
        set_recomputation(model, recipe(recompute=policy), positions)
        assert model.recompute is expected and selective_of(model) is None


def test_what_it_cannot_be_combined_with_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match="recompute: selective knows products one by one.*: set compile: off"):
        recipe(recompute="selective", compile="on")
    monkeypatch.setattr("lm.training.parallel.world_size", lambda: 2)
    monkeypatch.setenv("TOKENMILL_PARALLEL", "fsdp")
    with pytest.raises(
        ConfigError, match="^recompute: selective is known to hold with exact and ddp alone: set [^\n]*$"
    ):
        make_parallel(recipe(recompute="selective"))
    assert recomputing.KEPT


def test_results_of_attention_are_kept_and_no_gradients() -> None:
    forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
    backward_of = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default
    assert is_kept(forward) and is_kept(torch.ops.aten.mm.default)
    assert not is_kept(backward_of) and not is_kept(torch.ops.aten.mul.Tensor)
