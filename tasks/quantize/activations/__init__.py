"""What the matrices of the blocks multiply: `rounding() -> Rounding or None`, in whole numbers or as it is."""

from tasks.quantize.activations.exact import Exact
from tasks.quantize.activations.int8 import Int8Inputs
