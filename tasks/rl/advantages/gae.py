"""A critic's view of every token: generalized advantage estimation, Schulman et al. 2015 (arXiv:1506.02438), for PPO with the
critic of InstructGPT as DeepSpeed-Chat has it, Yao et al. 2023 (arXiv:2308.01320).
"""

from typing import Literal

from torch import Tensor

from tasks.rl.advantages.base import CriticAdvantage, subtract_baseline


class Gae(CriticAdvantage):
    """A second model with a scalar head, the critic, learns beside the policy what an answer will earn from each of its tokens
    on; an answer's tokens share no advantage. It has the stage's optimizer, schedule and clip of gradients, as many updates,
    and is dense whatever rl.linear says. A critic that begins as the policy has a head of zeros, so that the first rollout's
    baseline is 0.

    Differs from DeepSpeed-Chat: rewards hold no penalty for leaving the start model (rl.loss.kl is in the loss); the policy is
    not trained on text beside; a critic has the policy's size unless it begins as rl.scorer; of several heads the mean is
    learned. Every rank trains the whole critic."""

    name: Literal["gae"] = "gae"

    def __call__(self, rewards_GS: Tensor, mask_GS: Tensor, baseline_G: Tensor | None = None) -> Tensor:
        """The advantage of each whole answer, as curricula and the ledger of rollouts are told: the reward less what the critic
        expected of the prompt. Raises ValueError without that."""
        if baseline_G is None:
            raise ValueError("gae needs baseline_G, what the critic expects of each problem")
        return subtract_baseline(rewards_GS, mask_GS, baseline_G)
