"""The divergence of two linear layers' logits, with all of them in memory.

Letters: T tokens, D and E widths of the two models, V vocabulary.
"""

from collections.abc import Callable

from torch import Tensor


def linear_divergence(
    x_TD: Tensor,
    weight_VD: Tensor,
    teacher_x_TE: Tensor,
    teacher_weight_VE: Tensor,
    divergence: Callable[[Tensor, Tensor], Tensor],
    denominator: float,
) -> Tensor:
    """The sum over the tokens of divergence(logits_TV, teacher_logits_TV) over the denominator."""
    return divergence(x_TD @ weight_VD.T, teacher_x_TE @ teacher_weight_VE.T).sum() / denominator
