"""What flows into each matrix while a model does its work: the text of its pretraining, and its own answers to problems."""

from functools import cached_property

import torch
from pydantic import Field
from torch import Tensor

from lm.checkpoint import device
from lm.config import Config
from lm.model import Decoder
from lm.sampler import generate
from lm.tokenizer import Tokenizer
from lm.training.data.conversations import Conversation, collate
from lm.training.data.plan import Plan

# Rows of a forward pass: bounds memory.
BATCH = 16
Batch = tuple[Tensor, Tensor]


class Calibration(Config):
    problems: int = Field(256, ge=0, description="of the sft split, answered by the model at temperature 1")
    sequences: int = Field(16, ge=0, description="of pretraining text")
    max_new_tokens: int = Field(32, gt=0)


def calibration_batches(
    model: Decoder, tokenizer: Tokenizer, prompts: list[str], plan: Plan, config: Calibration, seed: int, slot: str
) -> list[Batch]:
    """(ids_BT, mask_BT) of everything; the mask is true where a token is no padding. Prompts that do not fit are left out,
    which is said of `slot`."""
    batches: list[Batch] = []
    step = 0
    while sum(len(ids) for ids, _ in batches) < config.sequences:
        wanted = min(BATCH, config.sequences - sum(len(ids) for ids, _ in batches))
        ids = plan.batch(step % plan.steps)[:wanted, : model.config.context]
        batches.append((ids, torch.ones_like(ids, dtype=torch.bool)))
        step += 1
    fitting = [p for p in map(tokenizer.chat, prompts) if len(p) + config.max_new_tokens <= model.config.context]
    if config.problems and len(fitting) < len(prompts):
        print(
            f"{slot}: {len(prompts) - len(fitting)} of {len(prompts)} prompts are left out: they and "
            f"{config.max_new_tokens} new tokens are more than the context of {model.config.context}",
            flush=True,
        )
    for start in range(0, min(len(fitting), config.problems), BATCH):
        asked = fitting[start : min(start + BATCH, config.problems)]
        answers = generate(model, asked, config.max_new_tokens, 1.0, tokenizer.end_id, seed + start, rows=BATCH)
        whole = [Conversation(p, a.ids) for p, a in zip(asked, answers, strict=True)]
        ids, _ = collate(whole, tokenizer.pad_id)
        lengths = torch.tensor([len(c) for c in whole])
        batches.append((ids, torch.arange(ids.shape[1]) < lengths[:, None]))
    return batches


class LayerInputs:
    """What a matrix has seen: rows_NI, and what methods make of it. Matrices that read the same have one between them, so that
    what is made is made once, as of query, key and value."""

    def __init__(self, rows_NI: Tensor) -> None:
        self.rows_NI = rows_NI
        self._factors: dict[tuple[float, bool], Tensor] = {}

    def check(self) -> None:
        """Raises ValueError unless they are finite."""
        if not self._finite:
            raise ValueError("its inputs have NaN or infinite entries")

    @cached_property
    def _finite(self) -> bool:
        return bool(torch.isfinite(self.rows_NI).all())

    @cached_property
    def moments_II(self) -> Tensor:
        """X' X / N in float64."""
        rows = self.rows_NI.double()
        return rows.T @ rows / len(rows)

    @cached_property
    def magnitude_I(self) -> Tensor:
        """The mean of |x| in float64."""
        return self.rows_NI.double().abs().mean(0)

    @cached_property
    def largest_I(self) -> Tensor:
        """The largest |x| in float64."""
        return self.rows_NI.double().abs().amax(0)

    @cached_property
    def order_I(self) -> Tensor:
        """Inputs by their second moments, the largest first; of equals the first."""
        return self.moments_II.diagonal().sort(descending=True, stable=True).indices

    def factor(self, damping: float, ordered: bool = False) -> Tensor:
        """upper_factor of the moments, of inputs in order_I where `ordered`."""
        key = damping, ordered
        if key not in self._factors:
            moments = self.moments_II[self.order_I][:, self.order_I] if ordered else self.moments_II
            self._factors[key] = upper_factor(moments, damping)
        return self._factors[key]


@torch.no_grad()
def collect_layer_inputs(model: Decoder, names: list[str], batches: list[Batch]) -> dict[str, LayerInputs]:
    """What each of these weights of linear layers sees over the batches, padding left out; one object for those that read the
    same."""
    seen: dict[str, list[Tensor]] = {name: [] for name in names}
    mask = torch.empty(0)
    last: tuple[Tensor, Tensor] = (
        mask,
        mask,
    )  # what was given last and its rows without padding: the next may read it too

    def keep(name: str, inputs: Tensor) -> None:
        nonlocal last
        if inputs is not last[0]:
            # of what is no token, such as a position that filters are made of, there is no padding
            last = inputs, inputs[mask] if inputs.shape[:-1] == mask.shape else inputs.flatten(0, -2)
        seen[name].append(last[1])

    hooks = [
        model.get_submodule(name.removesuffix(".weight")).register_forward_pre_hook(
            lambda _, inputs, name=name: keep(name, inputs[0])
        )
        for name in names
    ]
    for ids, real in batches:
        mask = real.to(device())  # what `keep` reads
        model(ids.to(device()))
    for hook in hooks:
        hook.remove()
    found: dict[str, LayerInputs] = {}
    made: list[tuple[list[Tensor], LayerInputs]] = []
    for name, parts in seen.items():
        same = next((each for known, each in made if all(x is y for x, y in zip(known, parts, strict=True))), None)
        found[name] = same or LayerInputs(torch.cat(parts))
        made.append((parts, found[name]))
    return found


def upper_factor(moments_II: Tensor, damping: float) -> Tensor:
    """U_II, upper triangular, with U' U the inverse of H = moments + damping x mean diagonal; 1 for an input never seen."""
    hessian = moments_II.clone()
    diagonal = hessian.diagonal()
    diagonal[diagonal == 0] = 1
    diagonal += damping * diagonal.mean()
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
