"""Laws of mask ratios: `(points_R, progress) -> ratios_R`, the share of its tokens that is masked in each of R sequences."""

from tasks.pretrain.ratios.logit_normal import LogitNormal
from tasks.pretrain.ratios.rising import Rising
from tasks.pretrain.ratios.uniform import Uniform
