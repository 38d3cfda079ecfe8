"""Divergences: `(student_TV logits, teacher_TV logits) -> nats_T`, of each of T tokens, differentiable by the student's.

A step's loss is the mean over the tokens that count, which are compared in chunks: what a token has depends on no other.
"""

from tasks.distill.divergences.forward_kl import ForwardKl
from tasks.distill.divergences.jsd import Jsd
from tasks.distill.divergences.reverse_kl import ReverseKl
from tasks.distill.divergences.skewed import Skewed
