"""A student of the teacher's most important parts: Minitron, Muralidharan et al. 2024 (arXiv:2407.14679), section 2."""

from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from lm.calibration import LayerInputs
from lm.config import Config, ConfigError
from lm.cutting.cut import check_units, shape_of, top_indices, with_units
from lm.cutting.stream import by_activation, by_magnitude, check_channels, narrow, with_channels
from lm.cutting.units import Activation, Magnitude
from lm.model import Decoder, ModelConfig
from tasks.distill.students.base import StudentInputs
from tasks.distill.students.layers import taken_layers

SLOT = "distill.student"


class Evenly:
    """Scores of places: 1 of those that are spaced evenly, else 0. Of heads within each key/value head's, where these are
    fewer."""

    needs_inputs = False

    def __init__(self, shape: ModelConfig, smaller: ModelConfig) -> None:
        groups = shape.kv_heads if shape.kv_heads < shape.heads else 1
        of_heads = spaced(shape.heads // groups, smaller.heads // groups) * groups
        self._by_width = {1: spaced(shape.ffn_width, smaller.ffn_width), shape.head_dim: of_heads}

    def __call__(self, weight_OI: Tensor, inputs: LayerInputs | None, width: int) -> list[float]:
        return self._by_width[width]


def spaced(there: int, count: int) -> list[float]:
    """1 for each of `count` places of so many that are evenly spaced, the first and the last among them, and 0 for others."""
    chosen = set(taken_layers(there, count))
    return [float(place in chosen) for place in range(there)]


class Sliced(Config):
    """Some of the teacher's layers, evenly spaced; of these some query heads and feed-forward channels, and some channels of
    the residual stream, with the teacher's weights. 0: all there are. by: `activation`, the largest mean activation, as the
    paper has it; `magnitude`, the largest norm of the weights that read it; `evenly`, evenly spaced.

    Differs from the paper: layers are evenly spaced and not those whose loss costs least, which is `prune`; activations are of
    one step's demonstrations and text; of a gated channel it is what the gate lets through."""

    name: Literal["sliced"] = "sliced"
    layers: int = Field(0, ge=0)
    width: int = Field(0, ge=0, description="of the residual stream; a head keeps its own width")
    heads: int = Field(0, ge=0, description="query heads of each layer, a multiple of kv_heads")
    ffn_width: int = Field(0, ge=0)
    by: Literal["activation", "magnitude", "evenly"] = "activation"

    def shape(self, teacher: ModelConfig) -> ModelConfig:
        """Raises ConfigError for more than the teacher has."""
        for name in ("layers", "width", "heads", "ffn_width"):
            asked, there = getattr(self, name), getattr(teacher, name)
            if asked > there:
                raise ConfigError(f"{SLOT}.{name}: {asked} is more than the teacher's {there}; lower it")
        if self.layers:
            teacher = teacher.select_layers(taken_layers(teacher.layers, self.layers))
        teacher = shape_of(teacher, self.heads, self.ffn_width, SLOT)
        return narrow(teacher, self.width) if self.width else teacher

    def build(self, teacher: Decoder, seed: int, beside: StudentInputs | None = None) -> Decoder:
        self.shape(teacher.config)
        if self.width:
            check_channels(teacher, SLOT)
        if self.heads or self.ffn_width:
            check_units(teacher, self.heads, SLOT)
        model = teacher.select_layers(taken_layers(teacher.config.layers, self.layers or teacher.config.layers))
        batches = beside.batches() if beside and self.by == "activation" else []
        if self.heads or self.ffn_width:
            smaller = shape_of(model.config, self.heads, self.ffn_width, SLOT)
            by = {"activation": Activation, "magnitude": Magnitude}.get(self.by)
            score: Any = by() if by else Evenly(model.config, smaller)
            model = with_units(model, self.heads, self.ffn_width, score, batches, SLOT)
        if self.width:
            model = with_channels(model, top_indices(self._of_stream(model, batches), self.width), SLOT)
        return model

    def _of_stream(self, model: Decoder, batches: Any) -> list[float]:
        if self.by == "evenly":
            return spaced(model.config.width, self.width)
        return by_magnitude(model) if self.by == "magnitude" else by_activation(model, batches)
