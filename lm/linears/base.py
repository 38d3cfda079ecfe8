"""What a matrix says of itself, whoever holds it: which numbers it has, what they are for, and what its product costs.

Letters: O outputs, I inputs.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from lm.config import Config, ConfigError

# matrix: of a product within a block, O x I. table: an embedding, a row a token. output: a head on what the blocks give, a row
# a token or a score. vector: all else, such as norms and biases, which never decays and is never cut.
Role = Literal["matrix", "table", "output", "vector"]
Roles = dict[str, Role]


class LinearMethod(Config):
    """A method of lm/linears.

    spans_rows: whether what a token gets depends on others of its pass beside those that attention shows it, of other rows and
    later ones too, since a scale is made of all of them: wherever its layers are, in training mode and as the model evaluates.
    """

    spans_rows: ClassVar[bool] = False

    def check(self, names: list[str]) -> None:
        """Raises ConfigError for a parameter that does not fit a model with layers of these names."""

    def frozen_parameters(self, names: list[str]) -> set[str]:
        """Parameters that are not trained, of those of a dense model, whose names these are. What its layers have of their own
        is trained beside the others."""
        return set()

    def builder(self, shapes: Mapping[str, tuple[int, int]]) -> Callable[[str, nn.Linear], nn.Linear]:
        """`build` for a model whose layers, by name, have these shapes, (outputs, inputs). A method whose layers have something
        in common makes it here."""
        return self.build

    @abstractmethod
    def build(self, name: str, linear: nn.Linear) -> nn.Linear:
        """The layer that takes the place of torch's layer of this name, from whose weight it begins; or that layer itself."""

    def after(self, step: int, layers: "Mapping[str, ReparametrizedLinear]") -> None:
        """Called when the weights have been updated, or the step skipped, with its gradients still there. layers: the model's
        held ones, by their names. Raises ConfigError where ranks hold parts that it needs whole."""

    def rewrites_weights(self) -> bool:
        """Whether its layers' weights are changed between steps other than by the optimizer. Ranks that hold a part of an
        optimizer's state have weights of their own there, which would not see it."""
        return False

    def packs(self) -> bool:
        """Whether a weight that its layers train holds, or comes to hold, what is no one matrix: blocks that have nothing to do
        with each other, or two factors. An optimizer that looks at more of a tensor than the entry that it updates would take
        them for a matrix."""
        return False

    def repacks(self) -> bool:
        """Whether what its layers' numbers stand for changes within a run, so that older ones mean nothing in later layers."""
        return False

    def uncompiled(self) -> bool:
        """Whether its layers come to have products of sizes of their own. Compiled blocks share one graph where their sizes are
        alike; of others each would be compiled by itself, and those beyond the eighth torch leaves uncompiled."""
        return False

    def clears(self, step: int, layers: "Mapping[str, ReparametrizedLinear]") -> float | None:
        """Share of the optimizer's moments that is cleared before a step in which its layers' own parameters begin anew: all
        moments of the entries of each tensor whose mean gradient is smallest; None: they do not. layers: the model's held ones,
        whose `begin` was called."""
        return None

    def factor(self, step: int, layers: "Mapping[str, ReparametrizedLinear]") -> float:
        """What the learning rate of the whole model counts at a step, beside the schedule."""
        return 1.0

    def artifact(self, layers: "dict[str, ReparametrizedLinear]") -> Any:
        """What is left of its layers, by their names, when they are merged: for a file beside the model. None: nothing."""
        return None


def is_named(name: str, pattern: str) -> bool:
    """Whether a layer is meant: a pattern is one or more parts of its name in a row, so that `ffn`, `query` and `0.ffn.up`
    mean layers of `blocks.0.ffn.up` and the like."""
    return f".{pattern}." in f".{name}."


def check_patterns(key: str, patterns: list[str], names: list[str], section: str = "linear") -> None:
    """Raises ConfigError, naming the key, for a pattern that means none of the layers of these names."""
    known = sorted({part for name in names for part in name.split(".") if not part.isdigit()})
    for pattern in patterns:
        if not any(is_named(f"blocks.{name}", pattern) for name in names):
            raise ConfigError(f"{section}.{key}: no {pattern!r} (allowed: {', '.join(known)}, and rows of them)")


class SelectiveLinearMethod(LinearMethod):
    """A method that holds the layers that `matrices` names, and leaves the others as they are."""

    matrices: list[str] = Field(
        [], description="which layers are held so, by parts of their names: ffn, query, 0.attention.value; none: all"
    )

    def check(self, names: list[str]) -> None:
        check_patterns("matrices", self.matrices, names)

    def applies_to(self, name: str) -> bool:
        """Whether the layer of this name is held so."""
        return not self.matrices or any(is_named(name, pattern) for pattern in self.matrices)


class ReparametrizedLinear(nn.Linear):
    """A matrix that is held another way than as O x I numbers which are all trained. A subclass has more parameters, or fewer
    that are trained, and says what `forward` computes of them.

    roles: of each parameter of its own. Those that it does not train have requires_grad False.
    rates: factors on the learning rate of parameters of its own, 1 where one is not named.
    """

    roles: ClassVar[Roles] = {"weight": "matrix", "bias": "vector"}
    rates: Mapping[str, float] = MappingProxyType({})

    def begin(self, step: int, turn: bool) -> None:
        """Called before the batch of a step is made. turn: whether it is this layer's, each step being that of one."""

    def penalty(self) -> Tensor | None:
        """What it adds to the loss of a step; None: nothing."""
        return None

    def state(self) -> dict[str, Tensor]:
        """What it keeps from step to step beside its parameters, so that a run that was killed goes on in the same bits."""
        return {}

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""

    def flops(self) -> float:
        """FLOP of its product for a token, forward and backward."""
        raise NotImplementedError

    def dense(self) -> Tensor:
        """weight_OI by which torch's layer gives what this one gives."""
        raise NotImplementedError

    def merged(self) -> nn.Linear:
        """torch's layer that gives what this one gives, of which all is trained."""
        plain = nn.Linear(self.in_features, self.out_features, self.bias is not None, "meta")  # draws nothing
        plain.weight = nn.Parameter(self.dense().detach())
        if self.bias is not None:
            plain.bias = nn.Parameter(self.bias.detach())
        return plain


def products_of(module: nn.Module) -> list[nn.Linear]:
    """Layers whose matrices autocast rounds at each use, and nothing is computed of them before: rounded once, they give the
    same. Not a held one, which may compute its matrix first, nor those within a module that is `exact`: used where autocast is
    off."""
    exact = {inner for each in module.modules() if getattr(each, "exact", False) for inner in each.modules()}
    linear = [
        each for each in module.modules() if isinstance(each, nn.Linear) and not isinstance(each, ReparametrizedLinear)
    ]
    return [layer for layer in linear if layer not in exact]


def flops_of(layer: nn.Linear) -> float:
    """FLOP of a layer's product for a token, forward and backward."""
    return layer.flops() if isinstance(layer, ReparametrizedLinear) else dense_flops(layer.weight)


def is_a_part(weight: Tensor) -> bool:
    """Whether this rank holds a part of a matrix: a DTensor of FSDP2, told by its mesh so that a process without ranks need not
    import torch.distributed.tensor (half a second), or a parameter that a ZeRO of DeepSpeed has emptied."""
    return hasattr(weight.detach(), "device_mesh") or not weight.numel()


def dense_flops(weight_OI: Tensor) -> float:
    """FLOP of a dense product for a token: 2 for each weight forward, 2 for the gradient of its input, and 2 for its own where
    it is trained."""
    return (6.0 if weight_OI.requires_grad else 4.0) * weight_OI.numel()


def roles_of(model: nn.Module) -> Roles:
    """What each parameter of a model is for, by its name. A module's own `roles` say it; without, a Linear layer has a matrix,
    an Embedding a table, and any other module vectors."""
    found: Roles = {}
    for path, module in model.named_modules():
        own: Roles = getattr(module, "roles", {})
        if not own and isinstance(module, nn.Linear | nn.Embedding):
            own = {"weight": "table" if isinstance(module, nn.Embedding) else "matrix"}
        for name, _ in module.named_parameters(path, recurse=False):
            found[name] = own.get(name.rpartition(".")[2], "vector")
    return found


def rates_of(model: nn.Module) -> dict[str, float]:
    """Factor on the learning rate of each parameter that has another than the optimizer's."""
    held = [(path, module) for path, module in model.named_modules() if isinstance(module, ReparametrizedLinear)]
    return {f"{path}.{name}": rate for path, module in held for name, rate in module.rates.items() if rate != 1}


def replace_layers(model: nn.Module, layers: dict[str, nn.Linear]) -> None:
    """Put these layers in the place of the model's own of those names."""
    for name, layer in layers.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer)
