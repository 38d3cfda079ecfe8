"""The stream behind a layer, through a learned projection: hints of FitNets, Romero et al. 2015 (arXiv:1412.6550), section
2.2."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from lm.model import Decoder
from tasks.distill.matches.base import Matching, TimedMatch
from tasks.distill.matches.layer_pass import LayerPass


def distance(projected_KE: Tensor, theirs_KE: Tensor, kind: str) -> Tensor:
    """distance_K: half the mean square of the difference, `squares`, or 1 less the cosine."""
    if kind == "squares":
        return 0.5 * (projected_KE - theirs_KE).square().mean(-1)
    return 1 - F.cosine_similarity(projected_KE, theirs_KE, dim=-1)


class Features(TimedMatch):
    """The student's guided layer is to give what the teacher's hint layer gives: equation 3, `distance: squares`. With `alone`
    hints come first and the rest afterwards, as in the paper's two stages. An early `student_depth` with `teacher_depth: 1`,
    `distance: cosine` and `fade` is after the idea of Late-to-Early Training (LET, arXiv:2602.05393), whose
    teacher is smaller than its student.

    Differs from the paper: a linear regressor, where it has a convolution; a mean over channels in the place of their sum; with
    `alone` layers above the guided one are left as they are by getting no gradient."""

    name: Literal["features"] = "features"
    distance: Literal["squares", "cosine"] = "squares"

    def open(self, student: Decoder, teacher: Decoder, seed: int) -> Matching | None:
        self.check()

        def apart(mine: LayerPass, theirs: LayerPass, places_K: Tensor, projected_KE: Tensor) -> Tensor:
            return distance(projected_KE, theirs.features(places_K), self.distance)

        return Matching(self, student, teacher, seed, apart)
