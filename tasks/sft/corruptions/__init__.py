"""What is done to the tokens that a model reads, while those that it predicts stay: `(ids_BT, mask_BT, pad_id, seed, step,
steps) -> ids_BT`, and noise on their embeddings (tasks/sft/corruptions/base.py).

ids_BT are the tokens of the step that predict, mask_BT the weights of their predictions: 0 of what is not learned. A method
depends on nothing but these, so that a run that was killed goes on in the same bytes.
"""

from tasks.sft.corruptions.masked_thought import MaskedThought
from tasks.sft.corruptions.neftune import Neftune
from tasks.sft.corruptions.untouched import Untouched
