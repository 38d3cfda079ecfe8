"""Policy losses: `(logp_BT, logp_old_BT, advantages_BT, weights_BT) -> loss, metrics` over B sampled answers of up to T tokens.

advantages are (B, 1) where all tokens of an answer share one. logp_old is of the policy that sampled, logp of the one that
learns, both nats at the temperature of sampling. `weights(mask_BT, longest)` gives the share of each token in the mean, of all
that an update learns from; loss and metrics are sums over the weights, so those of the parts of an update add up to those of
the whole. A loss whose gradient holds something of logp constant says so by `holds`. With `kl` the step adds the divergence
from the model that the stage began with, over the same weights. What a step calls is `compute` (base.py), which has the
reference, too; a loss of answers taken together, as a pair is, has it alone.
"""

from tasks.rl.losses.cispo import Cispo
from tasks.rl.losses.gspo import Gspo
from tasks.rl.losses.macro_action import MacroAction
from tasks.rl.losses.online_dpo import OnlineDpo
from tasks.rl.losses.policy_gradient import PolicyGradient
from tasks.rl.losses.reinforce import Reinforce
