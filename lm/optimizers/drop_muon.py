"""Drop-Muon: each step updates a random top part of the layers, and the backward pass stops below it.

Gruntkowska et al. 2025 (arXiv:2510.02239). Whole steps come with a probability, else the cut is uniform over the layers;
what lies below it keeps its weights and state. Differs from the paper: the final norm and an untied head learn in every
step, and a tied embedding, being the bottom layer, in whole steps only.
"""

from typing import Any, Literal

import numpy as np
from pydantic import Field

from lm.linears.base import Roles
from lm.optimizers.base import Named
from lm.optimizers.orthogonal import MuonOptimizer, OrthogonalConfig


def cut_at(step: int, layers: int, whole: float, seed: int) -> int:
    """The lowest layer that learns in this step: 0 (the embedding) with probability `whole`, else one of 1 to layers."""
    generator = np.random.Generator(np.random.Philox(key=[seed, step]))
    return 0 if generator.random() < whole or not layers else 1 + int(generator.integers(layers))


def layers_of(named: Named) -> list[int]:
    """The layer of each weight: 0 of an embedding, n + 1 of blocks.<n>, and above all blocks of what follows them."""
    parts = [name.split(".") for name, _ in named]
    blocks = [int(part[1]) + 1 if part[0] == "blocks" else 0 for part in parts]
    top = max(blocks, default=0) + 1
    return [block or (0 if "embed" in part[0] else top) for block, part in zip(blocks, parts, strict=True)]


class DropMuonOptimizer(MuonOptimizer):
    """Muon over the layers above the step's cut; those below need no gradient, so that autograd stops there."""

    freezes = True

    def __init__(self, groups: list[dict[str, Any]], settings: dict[str, Any], named: Named) -> None:
        super().__init__(groups, settings)
        self._layers = list(zip(layers_of(named), (weight for _, weight in named), strict=True))

    def begin(self, step: int) -> None:
        top = max(layer for layer, _ in self._layers)
        cut = cut_at(step, top - 1, self.defaults["whole"], self.defaults["seed"])
        for layer, weight in self._layers:
            weight.requires_grad_(layer >= cut)

    def finish(self) -> None:
        for _, weight in self._layers:
            weight.requires_grad_(True)


class DropMuon(OrthogonalConfig):
    name: Literal["drop_muon"] = "drop_muon"
    whole: float = Field(0.5, ge=0, le=1, description="probability that a step updates every layer")
    seed: int = Field(0, ge=0, description="of the cuts")

    def build(self, named_parameters: Named, roles: Roles) -> DropMuonOptimizer:
        """The optimizer of these weights."""
        return DropMuonOptimizer(self.groups(named_parameters, roles), self.settings(), named_parameters)
