"""Preference losses: `(logps) -> loss_P, margin_P` over P pairs of a chosen and a rejected answer to one prompt.

`logps` (base.py) has the log-probabilities of the answers under the model that learns and, where a loss says
`needs_reference`, under the start model, frozen: computed once, before the first step. The step's loss is the mean of loss_P
over its pairs; margin_P, without a gradient, is by how much the loss holds the chosen answer better, and above 0 where it
does.
"""

from tasks.preference.losses.ddo import Ddo
from tasks.preference.losses.dpo import Dpo
from tasks.preference.losses.ipo import Ipo
from tasks.preference.losses.kto import Kto
from tasks.preference.losses.orpo import Orpo
from tasks.preference.losses.rrhf import Rrhf
from tasks.preference.losses.simpo import Simpo
