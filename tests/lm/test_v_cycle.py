"""A V-cycle over depth: its two ways beside the paper's matrices, a run beside one by hand, and what a checkpoint holds between."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lm.averages import Ema, Last
from lm.depth import Coalesced, Interpolated
from lm.linears.base import roles_of
from lm.model import Decoder
from lm.optimizers import AdamW
from lm.training.growing import Growing
from lm.training.loop import train
from lm.training.v_cycle import coalesce_, interpolate_, saved_weight_bytes, saved_weights
from tasks.pretrain.growths import Staged, VCycle
from tasks.pretrain.growths.v_cycle import groups_of
from tests.lm.models import toy_model
from tests.lm.test_growing import LAYERS, STEPS, fit, stopped
from tests.lm.test_training import Recorder, batches, recipe

DOWN, UP, ALPHA = 3, 7, 0.25
METHOD = VCycle(initial=DOWN / STEPS, until=UP / STEPS, alpha=ALPHA)


def matrices(small: int, large: int) -> tuple[np.ndarray, np.ndarray]:
    """R of large x small, and G of small x large, as the paper has them: R's columns, and G's, being R transposed, add up to 1."""
    R = np.zeros((large, small))
    for layer in range(large):
        R[layer, layer * small // large] = 1
    R /= R.sum(0, keepdims=True)
    G = R.T / R.T.sum(0, keepdims=True)
    return R, G


def stacked(tensors: dict[str, Tensor], rest: str, layers: int) -> np.ndarray:
    return np.stack([tensors[f"blocks.{layer}.{rest}"].double().numpy() for layer in range(layers)])


@pytest.mark.parametrize(("small", "large"), [(2, 4), (1, 4), (2, 5), (3, 4)])
def test_the_two_ways_are_products_with_the_papers_matrices(small: int, large: int) -> None:
    generator = torch.Generator().manual_seed(small + large)
    names = ["embedding.weight", *(f"blocks.{layer}.ffn.up.weight" for layer in range(large))]
    first = {name: torch.randn(3, 2, generator=generator) for name in names}
    (R, G), groups = matrices(small, large), groups_of(small, large)
    found = {name: tensor.clone() for name, tensor in first.items()}
    coalesce_(found, Coalesced(groups))
    W = stacked(first, "ffn.up.weight", large)
    coarse = np.einsum("lij,lk->kij", W, R)
    for group, wanted in zip(groups, coarse, strict=True):
        np.testing.assert_allclose(found[f"blocks.{group[0]}.ffn.up.weight"], wanted, atol=1e-6)
    assert torch.equal(found["embedding.weight"], first["embedding.weight"])
    for name in (
        "embedding.weight",
        *(f"blocks.{group[0]}.ffn.up.weight" for group in groups),
    ):  # what is trained meanwhile
        found[name] = found[name] + 1
    trained = coarse + 1
    interpolate_(found, first, Interpolated(groups, ALPHA))
    wanted = (1 - ALPHA) * W + ALPHA * np.einsum("kij,kl->lij", trained, G)
    np.testing.assert_allclose(stacked(found, "ffn.up.weight", large), wanted, atol=1e-6)
    torch.testing.assert_close(found["embedding.weight"], first["embedding.weight"] + ALPHA)


def test_all_of_the_smaller_model_leaves_layers_of_a_group_alike_and_a_part_of_it_does_not() -> None:
    for alpha, alike in ((1.0, True), (ALPHA, False)):
        weights = {f"blocks.{layer}.ffn.up.weight": torch.full((2,), float(layer)) for layer in range(4)}
        first = {name: weight.clone() for name, weight in weights.items()}
        coalesce_(weights, Coalesced(groups_of(2, 4)))
        interpolate_(weights, first, Interpolated(groups_of(2, 4), alpha))
        found = [float(weight[0]) for weight in weights.values()]
        assert found == ([0.5, 0.5, 2.5, 2.5] if alike else pytest.approx([0.125, 0.875, 2.125, 2.875]))


def some_steps(model: Decoder, begin: int, end: int) -> Decoder:
    """Steps of AdamW that begins with no state, at the rates that a run of STEPS has then."""
    how, optimizer = recipe(), AdamW().build(list(model.named_parameters()), roles_of(model))
    for step in range(begin, end):
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * how.schedule(step, STEPS)
        optimizer.zero_grad(set_to_none=True)
        batches(model)(step).loss(slice(0, 4))[0].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), how.clip)
        optimizer.step()
    return model


def mixed(tensors: dict[str, Tensor], matrix: np.ndarray) -> dict[str, Tensor]:
    """Tensors whose layers are products of these layers, along the layers, with a matrix; all else is as it is."""
    found = {name: tensor for name, tensor in tensors.items() if not name.startswith("blocks.")}
    for rest in [name.removeprefix("blocks.0.") for name in tensors if name.startswith("blocks.0.")]:
        made = np.einsum("l...,lk->k...", stacked(tensors, rest, matrix.shape[0]), matrix)
        found |= {f"blocks.{k}.{rest}": torch.tensor(layer, dtype=torch.float32) for k, layer in enumerate(made)}
    return found


def test_a_run_is_three_runs_of_which_each_begins_with_what_the_paper_makes_of_the_one_before(tmp_path: Path) -> None:
    R, G = matrices(2, LAYERS)
    model = some_steps(toy_model(seed=1, layers=LAYERS).train(), 0, DOWN)
    first = {name: weight.clone() for name, weight in model.state_dict().items()}
    small = model.select_layers([0, 1]).train()
    small.load_state_dict(mixed(first, R))
    back = mixed(some_steps(small, DOWN, UP).state_dict(), G)
    model.load_state_dict({name: weight + ALPHA * (back[name] - weight) for name, weight in first.items()})
    wanted = some_steps(model, UP, STEPS).state_dict()
    found = fit(METHOD, Recorder(tmp_path)).state_dict()
    for name, weight in wanted.items():
        # a first update of Adam is of the size of the rate whatever the gradient, so that all must be the same bits before it
        torch.testing.assert_close(found[name], weight, rtol=0, atol=2e-6, msg=name)


def test_blocks_that_wait_stay_and_all_that_is_set_aside_is_in_the_checkpoint(tmp_path: Path) -> None:
    before = stopped(METHOD, tmp_path / "before", DOWN).state_dict()
    during = stopped(METHOD, tmp_path / "during", DOWN + 2).state_dict()
    moved = {name for name, weight in before.items() if not torch.equal(weight, during[name])}
    kept = set(saved_weights(toy_model(seed=1, layers=LAYERS), groups_of(2, LAYERS)))
    assert moved == kept == {name for name in before if not name.startswith(("blocks.1.", "blocks.3."))}
    seen: list[dict[str, Tensor]] = []

    class Look(Growing):
        def after(self, step: int, loss: float, norm: float) -> None:
            super().after(step, loss, norm)
            seen.append({name: tensor.clone() for name, tensor in self.state().items()})

    model = toy_model(seed=1, layers=LAYERS)
    train(model, recipe(), STEPS, batches(model), Recorder(tmp_path / "whole"), components=[Look(METHOD)])
    assert [bool(state) for state in seen] == [DOWN <= step < UP for step in range(STEPS)]
    assert all(torch.equal(tensor, before[name]) for name, tensor in seen[UP - 1].items())
    sizes = sum(tensor.nbytes for tensor in seen[DOWN].values())
    assert sizes == saved_weight_bytes(model, METHOD, STEPS) > 0 == saved_weight_bytes(model, Staged(), STEPS)


def test_the_mean_goes_both_ways_as_the_weights_do(tmp_path: Path) -> None:
    """At a step in which nothing is learned the mean is what the same steps make of the mean before."""
    model, means = toy_model(seed=1, layers=LAYERS), []

    class Look(Growing):
        def join(self, parallel: Any, mean: Any, steps: int) -> None:
            super().join(parallel, mean, steps)
            self.run_mean = mean

        def begin(self, step: int) -> None:
            parts = [{name: tensor.clone() for name, tensor in self.run_mean.mean.items()}]
            parts.append({name: weight.detach().clone() for name, weight in model.named_parameters()})
            super().begin(step)
            means.append((*parts, {name: tensor.clone() for name, tensor in self.run_mean.mean.items()}))

    train(model, recipe(average=Ema), STEPS, batches(model), Recorder(tmp_path), components=[Look(METHOD)])
    mean, _, after = means[DOWN]
    name, other = "blocks.0.ffn.up.weight", "blocks.1.ffn.up.weight"
    torch.testing.assert_close(after[name], (mean[name] + mean[other]) / 2)
    assert torch.equal(after[other], mean[other])
    first = means[DOWN][1]
    mean, weights, after = means[UP]
    assert torch.equal(weights[other], first[other])
    torch.testing.assert_close(after[name], (1 - ALPHA) * first[name] + ALPHA * mean[name])
    torch.testing.assert_close(after[other], (1 - ALPHA) * first[other] + ALPHA * mean[name])
    torch.testing.assert_close(
        after["embedding.weight"], (1 - ALPHA) * first["embedding.weight"] + ALPHA * mean["embedding.weight"]
    )


def test_the_smaller_models_states_are_forgotten_on_both_ways(tmp_path: Path) -> None:
    model, steps = toy_model(seed=1, layers=LAYERS), []

    class Look(Growing):
        def after(self, step: int, loss: float, norm: float) -> None:
            super().after(step, loss, norm)
            slots = self._parallel.slots()
            steps.append({name.removeprefix("step."): int(n) for name, n in slots.items() if name.startswith("step.")})

    train(model, recipe(average=Last), STEPS, batches(model), Recorder(tmp_path), components=[Look(METHOD)])
    for step, count in ((0, 1), (DOWN - 1, DOWN), (DOWN, 1), (UP - 1, UP - DOWN), (UP, 1), (STEPS - 1, STEPS - UP)):
        assert set(steps[step].values()) == {count}
        assert ("blocks.1.ffn.up.weight" in steps[step]) == (not DOWN <= step < UP)
