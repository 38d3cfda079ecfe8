"""Adapters beside those of the library peft: how they begin, what their layers share, and nine updates of each kind."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from lm.config import Config
from lm.hugging_face.load import their_name
from lm.linears import AdaLoRA, DoRA, LoRA, VeRA
from lm.model import Decoder
from lm.training.reparametrized import ReparametrizedLayers
from tests.lm.models import toy_model
from tests.lm.test_adapters import EVERY_MATRIX, exported, start
from tests.lm.test_linears import IDS, batch_of


def beside_peft(method: Config, config: Any, folder: Path) -> tuple[Decoder, Any, dict[str, Any]]:
    """(our toy, held; the same one adapted by peft; its layers by our names)."""
    exported(start(folder / "start"), folder / "theirs")
    torch.manual_seed(0)
    theirs = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folder / "theirs"), config)
    ours = toy_model(seed=1)
    ours.reparametrize(method)
    names = {name: their_name(f"{name}.weight", ours.config).removesuffix(".weight") for name in ours.held}
    return ours.train(), theirs, {name: theirs.base_model.model.get_submodule(names[name]) for name in ours.held}


@pytest.mark.parametrize("begin", ["pissa", "olora"])
@pytest.mark.parametrize("scaling", ["rank", "root_rank"])
def test_what_begins_as_a_part_of_the_matrix_begins_as_in_peft(begin: str, scaling: str, tmp_path: Path) -> None:
    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=EVERY_MATRIX, init_lora_weights=begin, use_rslora=scaling == "root_rank"
    )
    ours, _, layers = beside_peft(LoRA(rank=4, alpha=6.0, scaling=scaling, start=begin), config, tmp_path)
    for name, layer in ours.held.items():
        up, down = layers[name].lora_B["default"].weight, layers[name].lora_A["default"].weight
        # vectors of a decomposition are so to a sign, which they share
        torch.testing.assert_close(layer.up @ layer.down, up @ down, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(layer.up.abs(), up.abs(), rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(layer.down.abs(), down.abs(), rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(layer.weight, layers[name].base_layer.weight, rtol=1e-4, atol=1e-6)


def test_what_the_layers_of_vera_share_is_what_peft_draws(tmp_path: Path) -> None:
    config = peft.VeraConfig(r=7, target_modules=EVERY_MATRIX, projection_prng_key=5, d_initial=0.2)
    ours, _, layers = beside_peft(VeRA(rank=7, seed=5, inner=0.2), config, tmp_path)
    for name, layer in ours.held.items():
        theirs = layers[name]
        assert torch.equal(layer.down_RI, theirs.vera_A["default"][:, : layer.in_features])
        assert torch.equal(layer.up_OR, theirs.vera_B["default"][: layer.out_features])
        assert torch.equal(layer.inner, theirs.vera_lambda_d["default"])
        assert torch.equal(layer.outer, theirs.vera_lambda_b["default"])


def copied(
    ours: Decoder, layers: dict[str, Any], names: dict[str, str]
) -> list[tuple[str, torch.nn.Parameter, Tensor]]:
    """(name, ours, peft's) of all that is trained, peft's brought to ours. names: peft's of a layer's parameters."""
    found = []
    with torch.no_grad():
        for name, layer in ours.held.items():
            for part, there in names.items():
                theirs = layers[name].get_parameter(there)
                theirs.copy_(layer.get_parameter(part).view_as(theirs))
                found.append((f"{name}.{part}", layer.get_parameter(part), theirs))
    return found


LORA = {"down": "lora_A.default.weight", "up": "lora_B.default.weight"}
ADALORA = {"down": "lora_A.default", "up": "lora_B.default", "values": "lora_E.default"}
LIKE_PEFT: dict[str, tuple[Config, Any, dict[str, str]]] = {
    "lora": (LoRA(rank=4), peft.LoraConfig(r=4, lora_alpha=16, target_modules=EVERY_MATRIX), LORA),
    "rslora": (
        LoRA(rank=4, scaling="root_rank"),
        peft.LoraConfig(r=4, lora_alpha=16, target_modules=EVERY_MATRIX, use_rslora=True),
        LORA,
    ),
    "dora": (
        DoRA(rank=4),
        peft.LoraConfig(r=4, lora_alpha=16, target_modules=EVERY_MATRIX, use_dora=True),
        {**LORA, "magnitude": "lora_magnitude_vector.default.weight"},
    ),
    "vera": (
        VeRA(rank=7, seed=5),
        peft.VeraConfig(r=7, target_modules=EVERY_MATRIX, projection_prng_key=5),
        {"inner": "vera_lambda_d.default", "outer": "vera_lambda_b.default"},
    ),
    "adalora": (
        AdaLoRA(rank=2, first_rank=4, alpha=64.0, cut_from=1, cut_until=6, cut_every=2, orthogonality=0.3),
        peft.AdaLoraConfig(
            target_r=2, init_r=4, lora_alpha=64, tinit=1, tfinal=3, total_step=9, deltaT=2, orth_reg_weight=0.3,
            target_modules=EVERY_MATRIX,
        ),
        ADALORA,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", LIKE_PEFT)
def test_nine_updates_are_those_of_peft(kind: str, tmp_path: Path) -> None:
    """By plain gradient descent, whose updates are as near as gradients are, of what is drawn here."""
    method, config, names = LIKE_PEFT[kind]
    ours, theirs, layers = beside_peft(method, config, tmp_path)
    pairs = copied(ours, layers, names)
    begun = [mine.detach().clone() for _, mine, _ in pairs]
    rate = 0.1 if kind == "rslora" else 0.5  # of a product that counts more
    optimizers = [torch.optim.SGD([pair[side] for pair in pairs], rate) for side in (1, 2)]
    held = ReparametrizedLayers(ours)
    for step in range(9):
        held.begin(step)
        loss = batch_of(ours).loss(slice(0, 4))[0]
        added = ours.auxiliary_loss()
        loss = loss if added is None else loss + added
        there = theirs.base_model(input_ids=IDS, labels=IDS).loss  # which adds what AdaLoRA adds
        torch.testing.assert_close(loss, there, rtol=1e-5, atol=1e-5)
        loss.backward()
        there.backward()
        for optimizer in optimizers:
            optimizer.step()
        held.after(step, 0.0, 0.0)
        if kind == "adalora":
            theirs.base_model.update_and_allocate(step)
        for optimizer in optimizers:
            optimizer.zero_grad()
    for (name, mine, other), first in zip(pairs, begun, strict=True):
        torch.testing.assert_close(
            mine, other.view_as(mine), rtol=1e-3, atol=1e-5, msg=lambda said, name=name: f"{name}: {said}"
        )
        assert kind == "adalora" or not torch.equal(mine, first), name
    if kind == "adalora":
        assert 0 < sum(int((layer.values != 0).sum()) for layer in ours.held.values()) <= 2 * 14
