"""Ways to quantize: `(weight_OI, LayerInputs or None) -> PackedMatrix`; LayerInputs are what the matrix has seen."""

from tasks.quantize.methods.awq import Awq
from tasks.quantize.methods.gptq import Gptq
from tasks.quantize.methods.int8 import Int8
from tasks.quantize.methods.learned_rounding import LearnedRounding
from tasks.quantize.methods.rtn import Rtn
from tasks.quantize.methods.smooth import SmoothQuant
from tasks.quantize.methods.trit_planes import TritPlanes
