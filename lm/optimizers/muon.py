"""Muon: momentum whose update is orthogonalised (Keller Jordan 2024, https://kellerjordan.github.io/posts/muon/).

With the step size and weight decay of Liu et al. 2025 (arXiv:2502.16982). Hidden matrices only; embeddings, the output
head, norms and biases are updated by AdamW, as both sources do.
"""

from typing import Literal

from lm.linears.base import Roles
from lm.optimizers.base import Named
from lm.optimizers.orthogonal import MuonOptimizer, OrthogonalConfig


class Muon(OrthogonalConfig):
    name: Literal["muon"] = "muon"

    def build(self, named_parameters: Named, roles: Roles) -> MuonOptimizer:
        """The optimizer of these weights."""
        return MuonOptimizer(self.groups(named_parameters, roles), self.settings())
