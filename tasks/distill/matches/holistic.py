"""Features and attention together, until they are in the way: HASTE, Wang et al. 2025 (arXiv:2505.16792)."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from lm.config import ConfigError
from lm.mixers import Attention
from lm.model import Decoder
from tasks.distill.matches.base import Matching, TimedMatch
from tasks.distill.matches.features import distance
from tasks.distill.matches.layer_pass import LayerPass


def attention_apart(mine_KT: Tensor, theirs_KT: Tensor) -> Tensor:
    """KL(teacher || student), nats_K, of where places look."""
    smallest = torch.finfo(mine_KT.dtype).tiny
    return torch.special.xlogy(theirs_KT, theirs_KT / mine_KT.clamp(min=smallest)).sum(-1)


class Holistic(TimedMatch):
    """1 less the cosine of projected features, and `attention` times the divergence of the attention maps of the same layers,
    switched off for good at `until`, or when gradients disagree (`patience`).

    Differs from the paper: of language models, and of a teacher that says the same kind of thing; a linear projection in the
    place of three layers; maps are the mean over heads, of which both may have other numbers, where it compares head with head;
    one layer, where it has several."""

    name: Literal["holistic"] = "holistic"
    attention: float = Field(1.0, gt=0, description="what the attention maps weigh beside the features")

    def open(self, student: Decoder, teacher: Decoder, seed: int) -> Matching | None:
        self.check()
        for whose, model in (("student", student), ("teacher", teacher)):
            for layer in range(model.config.layers):
                mixer = model.config.layer(layer).mixer
                if type(mixer) is not Attention:
                    raise ConfigError(
                        f"distill.match: holistic: the {whose}'s mixer is {mixer.name}, which has no map: take features"
                    )

        def apart(mine: LayerPass, theirs: LayerPass, places_K: Tensor, projected_KE: Tensor) -> Tensor:
            of_maps = attention_apart(mine.attention(places_K), theirs.attention(places_K))
            return distance(projected_KE, theirs.features(places_K), "cosine") + self.attention * of_maps

        return Matching(self, student, teacher, seed, apart)
