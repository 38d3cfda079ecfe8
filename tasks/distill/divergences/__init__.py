"""Divergences: `(student_TV logits, teacher_TV logits, mask_T) -> scalar`, in nats, the mean over the masked tokens."""

from tasks.distill.divergences.forward_kl import ForwardKl
from tasks.distill.divergences.reverse_kl import ReverseKl
