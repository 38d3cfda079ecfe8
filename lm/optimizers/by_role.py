"""Rates and memories of their own for embedding, output head and vectors, whose gradients are of other sizes than matrices'.

As in the records of modded-nanogpt and in nanochat, where the rates of embedding and head are far apart. Weights without
settings of their own stay in one group with the others, so that a run without any gives the bytes that it gave before.
"""

from typing import Any

from pydantic import Field

from lm.config import Config
from lm.linears.base import Role, Roles
from lm.optimizers.base import Named


class Own(Config):
    """What is another for some weights than for the others with the same rule; null: the same."""

    lr: float | None = Field(None, gt=0, description="of these weights, at factor 1 of the schedule")
    beta1: float | None = Field(None, ge=0, lt=1, description="first memory")
    beta2: float | None = Field(None, ge=0, lt=1, description="second memory")

    def settings(self, prefix: str) -> dict[str, float]:
        """What a group of these weights has. prefix: of a memory's name there."""
        rates = {} if self.lr is None else {"lr": self.lr, "base_lr": self.lr}
        memories = self.model_dump(exclude={"lr"}, exclude_none=True)
        return {**rates, **{f"{prefix}{key}": memory for key, memory in memories.items()}}


class ByRole(Config):
    """The parameters of an optimizer that can treat weights by what they are for."""

    embedding: Own = Field(Own(), description="of the embedding, which may be the output head as well")
    head: Own = Field(Own(), description="of an output head that is not the embedding")
    vectors: Own = Field(Own(), description="of norms, biases, and all else that is no matrix")

    def settings(self) -> dict[str, Any]:
        """What every group has of the parameters: all but the name and those by role."""
        return self.model_dump(exclude={"name", *ByRole.model_fields})

    def split(self, groups: list[dict[str, Any]], named: Named, roles: Roles, prefix: str = "") -> list[dict[str, Any]]:
        """The groups, each without the weights that have settings of their own, and behind it groups of these."""
        of_role: dict[Role, Own] = {"table": self.embedding, "output": self.head, "vector": self.vectors}
        own = {role: one.settings(prefix) for role, one in of_role.items()}
        role_of = {weight: roles[name] for name, weight in named}
        found = []
        for group in groups:
            others = [weight for weight in group["params"] if not own.get(role_of[weight])]
            found.append({**group, "params": others})
            for role, settings in own.items():
                mine = [weight for weight in group["params"] if settings and role_of[weight] == role]
                found.append({**group, **settings, "params": mine})
        return [group for group in found if group["params"]]
