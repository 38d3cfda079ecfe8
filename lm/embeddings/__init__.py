"""What a model knows of its tokens beside the embedding that its stream begins with; none of it by default.

Those of the input change the embedded tokens once: module(x_BTD, tokens) -> x_BTD. Those of layers (`in_layers`) stand in front
of a block: module(x_BTD, context) -> (x_BTD, context). lm/embeddings/base.py has the contract, and tests hold every method of
this room to it: no token sees one after it or one of another document, and step by step gives what all at once gives.
"""

from lm.embeddings.bigram import Bigram
from lm.embeddings.smear import Smear
from lm.embeddings.value import Value
from lm.embeddings.x0 import X0
