"""What any stage that trains is asked: whether its rows divide, and what its model and its checkpoints take on disk."""

from collections.abc import Iterator

import torch

from lm.model import Decoder, ModelConfig
from lm.training.parallel import parts_of_a_batch
from lm.training.recipe import Recipe
from tasks.about.finding import Finding
from tasks.about.sections import Sections
from tasks.about.work import Lower
from tasks.runner.rooms import config_of, room_of

# Bytes of a token in tokenizer.json; of a weight, its gradient and AdamW's moments.
TOKENIZER_ROW, STATE = 60, 16


def is_training_stage(stage: str) -> bool:
    """Whether a stage's section is a recipe of training."""
    return bool(room_of(stage)) and issubclass(config_of(stage), Recipe)


def check_shards(key: str, recipe: Recipe, rows: int, together: int = 1) -> Iterator[Finding]:
    """The rows of a step divide into the parts that the stage's shards or ranks ask for, with so many rows in one part."""
    parts = parts_of_a_batch(recipe)
    if rows % (parts * together):
        blocks = "" if together == 1 else f", {together} of which stay together,"
        yield Finding(
            f"params.yaml: {key}",
            f"{rows} rows a step{blocks} cannot be divided into {parts} shards",
            "change either",
        )


def check_alike(stage: str, sections: Sections) -> Iterator[Finding]:
    """The model that a stage trains gives in training the likelihoods that it has where it samples and scores."""
    if sections.start_shape(stage).trained_otherwise:
        yield Finding(
            f"params.yaml: {stage}.model",
            "has layers whose tokens go elsewhere in training than where a model samples and scores, so that the likelihoods "
            "of an answer differ",
            f"take router token_top_k, no gated_blocks and no depths, in {sections.key(stage, 'feed_forward')} and the pattern",
        )


def weights_of(shape: ModelConfig) -> int:
    """Numbers in a model of this shape."""
    with torch.device("meta"):
        return Decoder(shape).num_parameters()


def model_bytes(shape: ModelConfig, each: float = 4.0) -> float:
    """Bytes of a model's folder, with so many for each weight."""
    return each * weights_of(shape) + TOKENIZER_ROW * shape.vocab_size


def checkpoint_bytes(shape: ModelConfig) -> float:
    """Bytes of the two checkpoints that training has at most."""
    return 2.0 * STATE * weights_of(shape)


def lower(sections: Sections, model: str, rest: str = "", sampling: str = "") -> Lower:
    """Where a training that begins with this model is too much: of its own keys those given, else of the model's shape."""
    width, layers, context = (sections.key(model, name) for name in ("width", "layers", "context"))
    of_shape = width if width == layers else f"{width} or {layers}"
    return Lower(
        f"{of_shape}: weights, gradients and optimizer alone are too much",
        rest or (context if context == width else f"{context}, then {width}"),
        sampling,
    )
