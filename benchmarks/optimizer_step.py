"""One optimizer step on the shapes of size M (width 256, 6 layers, 8192 tokens): ours beside torch's, in fp32."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.contest import Arm, Contest, Metric, Sample
from lm.linears.base import roles_of
from lm.model import Decoder, ModelConfig
from lm.optimizers import AdamW, Muon

SIZE_M = ModelConfig(
    vocab_size=8192, width=256, layers=6, heads=4, kv_heads=4, ffn_width=704, context=512, qk_norm=False
)
STEPS = 10
TIME = Metric("time", "ms")
# torch.optim.Muon orthogonalises in bfloat16, whose products are off by up to 2^-9 each; seen: 0.005
BFLOAT16 = 0.02


def contests(threads: int) -> Iterator[Contest]:
    """AdamW beside torch's fused one; Muon beside torch's Muon for the hidden matrices and its fused AdamW for the rest."""
    fused = partial(time_steps, lambda model: torch_adamw(list(model.named_parameters())))
    muon = partial(time_steps, lambda model: torch_muon(list(model.named_parameters())))
    yield Contest(
        Arm("adamw", partial(time_steps, partial(ours, AdamW(lr=1e-3)))),
        (TIME,),
        (Arm("torch AdamW fused", fused),),
        gate_within(1e-5),
    )
    yield Contest(
        Arm("muon", partial(time_steps, partial(ours, Muon(lr=5e-3, adamw_lr=1e-3)))),
        (TIME,),
        (Arm("torch Muon + AdamW fused", muon),),
        gate_within(BFLOAT16),
    )


def gate_within(tolerance: float) -> Callable[[Any, Any], str]:
    """The gate: how far two lists of weights lie apart, relative to how far training moved them."""

    def gate(ours: list[tuple[Tensor, Tensor]], peer: list[tuple[Tensor, Tensor]]) -> str:
        apart = torch.cat([(a - b).flatten() for (a, _), (b, _) in zip(ours, peer, strict=True)]).norm()
        moved = torch.cat([(a - start).flatten() for a, start in ours]).norm()
        return "" if apart <= tolerance * moved else f"weights differ by {float(apart / moved):.2g} of their way"

    return gate


def ours(method: Any, model: Decoder) -> Any:
    """Optimizer of one of our methods."""
    return method.build(list(model.named_parameters()), roles_of(model))


def time_steps(build: Callable[[Decoder], Any]) -> Sample:
    """Median time of a step after a first one; the answer is each weight after STEPS + 1 steps, and where it began."""
    model = Decoder(SIZE_M)
    named = list(model.named_parameters())
    before = [weight.detach().clone() for _, weight in named]
    generator = torch.Generator().manual_seed(1)
    for _, weight in named:
        weight.grad = torch.randn(weight.shape, generator=generator)
    built = build(model)
    optimizers = built if isinstance(built, list) else [built]
    seconds = []
    for _ in range(STEPS + 1):
        began = time.perf_counter()
        for optimizer in optimizers:
            optimizer.step()
        seconds.append(time.perf_counter() - began)
    answer = [(weight.detach(), start) for (_, weight), start in zip(named, before, strict=True)]
    return Sample({"time": sorted(seconds[1:])[STEPS // 2] * 1e3}, answer)


def torch_adamw(named: list[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(decayed_and_plain(named), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)


def decayed_and_plain(named: list[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
    plain = {"params": [weight for _, weight in named if weight.ndim < 2], "weight_decay": 0.0}
    return [{"params": [weight for _, weight in named if weight.ndim == 2]}, plain]


def torch_muon(named: list[tuple[str, nn.Parameter]]) -> list[torch.optim.Optimizer]:
    hidden = [weight for name, weight in named if weight.ndim == 2 and name.startswith("blocks.")]
    others = [(name, weight) for name, weight in named if not (weight.ndim == 2 and name.startswith("blocks."))]
    muon = torch.optim.Muon(hidden, lr=5e-3, momentum=0.95, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    return [muon, torch_adamw(others)]
