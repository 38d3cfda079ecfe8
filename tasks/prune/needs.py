"""What pruning makes: a model of fewer layers, heads or channels."""

from lm.cutting.cut import shape_of
from lm.model import ModelConfig
from tasks.about.sections import Sections
from tasks.about.training import model_bytes
from tasks.about.work import StageNeeds


def shape(sections: Sections) -> ModelConfig:
    """The start model's without what goes; which layers stay is not known before."""
    config, start = sections["prune"], sections.start_shape("prune")
    smaller = start.select_layers(range(config.layers)) if 0 < config.layers < start.layers else start
    return shape_of(smaller, config.heads, config.ffn_width, "prune") if config.heads or config.ffn_width else smaller


def needs(sections: Sections) -> StageNeeds:
    """The model."""
    return StageNeeds(model_bytes(shape(sections)))
