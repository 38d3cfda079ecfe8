"""What a model makes while it runs, in whole numbers or as it is: `rounding() -> Rounding or None`.

Of what its matrices multiply it is quantize.activation, of the keys and values that it keeps quantize.cache."""

from tasks.quantize.activations.exact import Exact
from tasks.quantize.activations.int8 import Int8Inputs
