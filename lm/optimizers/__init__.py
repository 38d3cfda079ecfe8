"""Optimizers: `build(named parameters, roles) -> Optimizer`, whose groups keep `base_lr` for the loop to scale."""

from lm.optimizers.adabound import AdaBound
from lm.optimizers.adamod import AdaMod
from lm.optimizers.adamw import AdamW
from lm.optimizers.drop_muon import DropMuon
from lm.optimizers.lamb import Lamb
from lm.optimizers.lars import Lars
from lm.optimizers.lion import Lion
from lm.optimizers.muon import Muon
from lm.optimizers.muoneq import MuonEq
from lm.optimizers.normuon import NorMuon
from lm.optimizers.onebit_adam import OneBitAdam
from lm.optimizers.radam import RAdam
from lm.optimizers.schedule_free import ScheduleFree
from lm.optimizers.soap import Soap
from lm.optimizers.soap_muon import SoapMuon
