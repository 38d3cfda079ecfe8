"""Layers that come in at given steps: masked structural growth, stacking within a run, and layer-wise training.

Masked structural growth (Yao et al. 2023, arXiv:2305.02869): a new layer stands behind a mask c, as x + c (layer(x) - x), which
rises linearly from 0 to 1, so that the function is the smaller model's at the growth, whatever the new weights are: `ramp`.
Layer-wise training: new layers, with random weights, on top of those that are there, and all trained (RETURNN, Zeyer et al.
2018, arXiv:1805.05225): `new_layers: random`; or first the new ones alone and then all of them, in as many steps each
(incremental training, Li et al. 2024, arXiv:2411.18700): `alone` half of a stage, in which embeddings, head and the last norm
are trained, too, as in the authors' code.

Differs from these: depth alone grows here, where the first grows width, heads and feed-forward width, too; while the mask is 0
the new layers are left out, which is the same and costs nothing; the rate follows the schedule of the run, and does not begin
anew; and copies take the optimizer's state along, which `moments: fresh` leaves behind, as the authors' code of the first does.
"""

from typing import Literal

from pydantic import Field, model_validator

from lm.depth import Depth
from tasks.pretrain.growths.base import USUAL, Growth, added_layers, copied_from, steps_in


def mask_of(elapsed: int, ramp: int) -> float:
    """c so many steps after a growth: linear from 0 to 1 over `ramp` of them."""
    return min(1.0, elapsed / ramp) if ramp else 1.0


class Staged(Growth):
    name: Literal["staged"] = "staged"
    new_layers: Literal["copied", "random"] = Field("copied", description="what their weights are")
    moments: Literal["carried", "fresh"] = Field(
        "carried", description="optimizer state of copies: their layer's, or none"
    )
    ramp: float = Field(
        0.0, ge=0, lt=1, description="part of all steps in which the mask of new layers rises; 0: at once"
    )
    alone: float = Field(0.0, ge=0, lt=1, description="part of all steps after a growth in which older layers stay")

    @model_validator(mode="after")
    def _in_time(self) -> "Staged":
        ends = [stage.until for stage in self.stages] or [end for _, end in USUAL]
        longest = max(self.ramp, self.alone)
        for begins, ends_at in zip(ends, [*ends[1:], 1.0], strict=True):
            if begins + longest > ends_at + 1e-9 or begins + longest >= 1:
                raise ValueError("ramp, alone: no longer than a stage, and over before the run's end")
        return self

    @property
    def begins_anew(self) -> bool:
        return self.new_layers == "random" or self.moments == "fresh"

    def sources(self, small: int, large: int) -> list[int]:
        found = super().sources(small, large)
        if self.new_layers == "random":  # the blocks that have waited
            for waited, layer in enumerate(added_layers(found), start=small):
                found[layer] = waited
        return found

    def depth(self, layers: int, step: int, steps: int) -> Depth | None:
        begun = self.stage_starts(layers, steps)
        index = max(number for number, stage in enumerate(begun) if stage.step <= step)
        first, count = begun[index]
        if index == 0:
            return Depth(tuple(range(count)), (1.0,) * count)
        new = added_layers(copied_from(begun[index - 1].layers, count, self.place))
        mask, alone = mask_of(step - first, steps_in(self.ramp, steps)), step - first < steps_in(self.alone, steps)
        if count == layers and mask == 1 and not alone:
            return None
        taking = [layer for layer in range(count) if mask or layer not in new]
        shares = tuple(mask if layer in new else 1.0 for layer in taking)
        return Depth(tuple(taking), shares, frozenset(range(count)).difference(new) if alone else frozenset())
