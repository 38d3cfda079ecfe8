"""Models of some channels of another's residual stream, whose weights are the other's.

Letters: D channels of the stream, I inputs of a matrix, O its outputs, N tokens.
"""

import torch
from torch import Tensor

from lm.calibration import Batch, collect_layer_inputs
from lm.config import ConfigError
from lm.model import Decoder, ModelConfig

# What reads the stream and what writes into it, by the ends of names; what is neither knows nothing of it
READS = (
    "attention.query.weight", "attention.key.weight", "attention.value.weight", "ffn.gate.weight", "ffn.up.weight",
    "embedding.weight", "head.weight",
)  # fmt: skip
WRITES = ("attention.output.weight", "ffn.down.weight")
ASIDE = ("query.bias", "key.bias", "value.bias", "query_norm.weight", "key_norm.weight")


def narrow(shape: ModelConfig, width: int) -> ModelConfig:
    """The shape with a stream of so many channels; a head keeps its width."""
    head_width = 0 if not shape.head_width and shape.head_dim * shape.heads == width else shape.head_dim
    return shape.model_copy(update={"width": width, "head_width": head_width})


def by_magnitude(model: Decoder) -> list[float]:
    """score_D: the Euclidean norm, over all matrices that read the stream, of the columns that read a channel."""
    reading = [weight for name, weight in model.named_parameters() if name.endswith(READS)]
    return torch.stack([weight.double().square().sum(0) for weight in reading]).sum(0).sqrt().tolist()


def by_activation(model: Decoder, batches: list[Batch]) -> list[float]:
    """score_D: the mean over tokens of the absolute value of what a norm gives, summed over the two norms of all layers
    (Minitron, Muralidharan et al. 2024, arXiv:2407.14679, section 2.2). The model is one that `check_channels` lets pass."""
    total_D = torch.zeros(model.config.width, dtype=torch.float64, device=model.embedding.weight.device)
    for layer in range(model.config.layers):
        names = [f"blocks.{layer}.{part}.weight" for part in ("attention.query", "ffn.up")]
        for seen in collect_layer_inputs(model, names, batches).values():
            total_D += seen.magnitude_I
    return total_D.tolist()


def check_channels(model: Decoder, slot: str) -> None:
    """Raises ConfigError, which begins with `slot`, for a weight of which it is not known how it meets the stream."""
    for name in model.state_dict():
        if not (name.endswith((*READS, *WRITES, *ASIDE)) or _is_along(name)):
            raise ConfigError(f"{slot}: channels of this model's stream cannot be told apart in {name}")


def _is_along(name: str) -> bool:
    """Whether a weight has a number for each channel of the stream."""
    return name.startswith("norm.") or "attention_norm." in name or "ffn_norm." in name


def with_channels(model: Decoder, channels: list[int], slot: str) -> Decoder:
    """The model of these channels of its stream, in evaluation mode. Raises ConfigError as `check_channels`."""
    check_channels(model, slot)
    made = Decoder(narrow(model.config, len(channels))).to(model.embedding.weight.device)
    chosen = torch.tensor(channels, device=model.embedding.weight.device)
    made.load_state_dict({name: _cut(name, weight, chosen) for name, weight in model.state_dict().items()})
    return made.eval()


def _cut(name: str, weight: Tensor, channels: Tensor) -> Tensor:
    if name.endswith(READS):
        return weight[:, channels]
    return weight[channels] if name.endswith(WRITES) or _is_along(name) else weight
