"""How the matrices of a model's blocks are held while it is trained: `build(name, linear) -> linear`, the layer that takes the
place of torch's. lm/linears/base.py has the contract, and tests hold every choice to it."""

from lm.linears.adalora import AdaLoRA
from lm.linears.clustered import Centroids
from lm.linears.cuttlefish import Cuttlefish
from lm.linears.dense import Dense
from lm.linears.dora import DoRA
from lm.linears.few_bits import FewBits
from lm.linears.frozen_lower import FrozenLower
from lm.linears.granet import GraNet
from lm.linears.lora import LoRA
from lm.linears.masked import Masked
from lm.linears.monarch import Monarch
from lm.linears.one_bit import OneBit
from lm.linears.pixelfly import Pixelfly
from lm.linears.qlora import QLoRA
from lm.linears.relora import ReLoRA
from lm.linears.sara import SaRA
from lm.linears.sltrain import SLTrain
from lm.linears.sst import SST
from lm.linears.vera import VeRA
