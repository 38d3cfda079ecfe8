"""What every policy loss shares: what it is the mean of. B answers, T predictions of each."""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from lm.config import Config


def shares(mask_BT: Tensor, over: Literal["tokens", "answers", "length"], longest: int) -> Tensor:
    """weights_BT: the share that each token in the mask has in a mean; 0 outside of the mask. A = answers with a token in it.

    tokens: 1 / tokens in the mask, so that long answers weigh more: DAPO (arXiv:2503.14476), equation 8. answers: 1 / (A x the
    answer's own tokens), so that answers weigh alike: GRPO (arXiv:2402.03300), equation 3. length: 1 / (A x longest), which no
    answer's length changes: Dr. GRPO (arXiv:2503.20783), section 3.2.
    """
    own_B1 = mask_BT.sum(1, keepdim=True)
    answers = (own_B1 > 0).sum()
    denominators = {"tokens": own_B1.sum(), "answers": answers * own_B1, "length": answers * longest}
    return mask_BT / denominators[over].clamp(min=1)


class PolicyLoss(Config):
    """holds: whether its gradient takes something made of logp for constant, as CISPO's (arXiv:2506.13585) does a clipped
    ratio; what that is, `detach` says."""

    holds: ClassVar[bool] = False
    over: Literal["tokens", "answers", "length"] = Field(
        "tokens", description="mean over all tokens (DAPO), over answers (GRPO), or per max_new_tokens (Dr. GRPO)"
    )

    def weights(self, mask_BT: Tensor, longest: int) -> Tensor:
        """weights_BT of all that one update learns from."""
        return shares(mask_BT, self.over, longest)
