"""Ways to quantize: `(weight_OI, calibration_NI or None) -> Packed`; calibration_NI are inputs the matrix has seen."""

from tasks.quantize.methods.gptq import Gptq
from tasks.quantize.methods.int4_group import Int4Group
from tasks.quantize.methods.int8 import Int8
