"""What a model reads before every text: vectors in the place of tokens' embeddings, which alone are trained while the model
stays. lm/prompts/base.py has the contract, and tests hold every method of this room to it: a model reads a text the same at
once, in parts and from its folder, and no weight of the model itself moves."""

from lm.prompts.ept import Ept
from lm.prompts.none import Without
from lm.prompts.prompt_tuning import PromptTuning
