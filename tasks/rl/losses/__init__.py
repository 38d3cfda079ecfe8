"""Policy losses: `(logp_T, logp_old_T, advantages_T, mask_T, denominator) -> loss, metrics` over T sampled tokens.

logp_old is of the policy that sampled, logp of the one that learns; the loss is a sum over the tokens in the mask,
divided by `denominator`, so the parts of a batch add up to the whole.
"""

from tasks.rl.losses.policy_gradient import PolicyGradient
from tasks.rl.losses.reinforce import Reinforce
