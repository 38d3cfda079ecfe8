"""Groups of answers that taught, in the place of groups that teach nothing: Selective Sample Replay, VL-Rethinker, Wang et al.
2025 (arXiv:2504.08837).

G problems of a rollout, S answers to each, T predictions, N = T + 1 tokens, K groups kept.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from lm.training.components import Component
from tasks.rl.rollout import Rollout

Group = dict[str, Tensor]  # ids, mask, old, advantages and, with a reference, its log-probabilities; S rows each


class Replay(Component):
    """The last groups whose advantages were not all 0. One takes the place of a group of a later rollout whose advantages are,
    drawn in proportion to its mean absolute advantage, once a rollout at most.

    Differs from the paper: it replays single answers, here the answers to a problem stay together; the log-probabilities are
    those under which they were sampled, so that ratios and clips see how old they are.
    """

    name = "replay"

    def __init__(self, most: int, problems: int, pad_id: int, seed: int) -> None:
        self._most, self._problems, self._pad_id, self._seed = most, problems, pad_id, seed
        self._kept: list[Group] = []
        self.replaced: list[int] = []  # groups of the last rollout that others took the place of

    def fill_groups(self, number: int, rollout: Rollout) -> Rollout:
        """The rollout, rollouts counted from 0, with kept groups in the place of those that teach nothing; what of it teaches
        is kept for later ones. Its figure `replayed` is the share of replaced groups."""
        groups = self._groups(rollout)
        idle = [place for place, group in enumerate(groups) if not group["advantages"].any()]
        taught = [_cut(group) for place, group in enumerate(groups) if place not in idle]
        drawn = self._drawn(number, min(len(idle), len(self._kept)))
        self.replaced = idle[: len(drawn)]
        for place, group in zip(self.replaced, drawn, strict=True):
            groups[place] = group
        self._kept = [*self._kept, *taught][-self._most :]
        metrics = {**rollout.metrics, "replayed": len(drawn) / len(groups)}
        if not drawn:
            return replace(rollout, metrics=metrics)
        whole = {name: rows.flatten(0, 1) for name, rows in self._stacked(groups).items()}
        return Rollout(
            whole["ids"], whole["mask"], whole["old"], whole["advantages"], metrics, reference_BT=whole.get("reference")
        )

    def _drawn(self, number: int, count: int) -> list[Group]:
        if not count:
            return []
        weights_K = np.array([float(group["advantages"].abs().double().mean()) for group in self._kept])
        generator = np.random.Generator(np.random.Philox(key=[self._seed, (1 << 41) + number]))
        places = generator.choice(len(weights_K), count, replace=False, p=weights_K / weights_K.sum())
        return [self._kept[place] for place in places]

    def _groups(self, rollout: Rollout) -> list[Group]:
        whole = {
            "ids": rollout.ids_BN,
            "mask": rollout.mask_BT,
            "old": rollout.logp_old_BT,
            "advantages": rollout.advantages_BT,
        }
        if rollout.reference_BT is not None:
            whole["reference"] = rollout.reference_BT
        split = {name: rows.unflatten(0, (self._problems, -1)) for name, rows in whole.items()}
        return [{name: rows[place] for name, rows in split.items()} for place in range(self._problems)]

    def _stacked(self, groups: list[Group]) -> Group:
        """Groups filled up to the longest, ids with the padding token, and laid on one another."""
        T = max(group["mask"].shape[1] for group in groups)
        return {name: torch.stack([self._wide(name, group[name], T) for group in groups]) for name in groups[0]}

    def _wide(self, name: str, rows: Tensor, T: int) -> Tensor:
        if name == "advantages":
            return rows
        width = T + (name == "ids")
        return pad(rows, (0, width - rows.shape[1]), value=self._pad_id if name == "ids" else 0)

    def state(self) -> dict[str, Tensor]:
        return self._stacked(self._kept) if self._kept else {}

    def load(self, state: dict[str, Tensor]) -> None:
        kept = len(next(iter(state.values()))) if state else 0
        self._kept = [_cut({name: rows[place] for name, rows in state.items()}) for place in range(kept)]


def _cut(group: Group) -> Group:
    """The group without what is behind its last token that counts."""
    T = int(group["mask"].any(0).nonzero().max()) + 1
    return {
        name: rows if name == "advantages" else rows[:, : T + (name == "ids")].clone() for name, rows in group.items()
    }
