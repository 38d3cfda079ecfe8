"""A mixture of experts: of several SwiGLU layers a token goes through those that a router scores highest.

Routing is top-k by token where nothing else is said: Shazeer et al. 2017 (arXiv:1701.06538), equations 1 to 5 without noise, as
Mixtral (Jiang et al. 2024, arXiv:2401.04088, section 2.1) has it; with `active: 1` and `normalised: false` the Switch
Transformer's (Fedus et al. 2021, arXiv:2101.03961, equations 1 and 2). Shared experts, which every token goes through, are
DeepSeekMoE's (Dai et al. 2024, arXiv:2401.06066, section 3.2), their gate Qwen2-MoE's. Balance loss: Switch, equations 4 to 6.
Loss of the router's logits: ST-MoE (Zoph et al. 2022, arXiv:2202.08906, equation 5).

Differs from the papers: no expert has a capacity, so no token is dropped and what becomes of one depends on others in rounding
alone: a product has as many rows as tokens chose the expert.
The balance is that of each row, a mean over rows (as in DeepSeek-V3, arXiv:2412.19437, equations 17 to 20), where Switch takes
a batch: how memory and ranks divide a batch then changes nothing. Padding counts as tokens in both losses.
Balance by a bias that follows the load (arXiv:2408.15664) is left out: a part has no state from step to step.

`router: expert_choice` is Zhou et al.'s (2022, arXiv:2202.09368): in training each expert takes those tokens of a row that
score highest for it, as many as every other, so that what becomes of a token depends on others of its row, later ones too. A
model that evaluates or samples goes by thresholds that were learned meanwhile, each token by itself: each expert's is passed by
a share A / X of the tokens of training. Differs from the paper: experts choose among a row's tokens and not a batch's, so that
memory and ranks change nothing; the capacity factor is `active`, a whole number; the paper has no such thresholds.
`router: dense` is DS-MoE's (Pan et al. 2024, arXiv:2404.05567): all experts for every token in training, afterwards the A
likeliest, or those of them whose share is above `epsilon`. Differs from the paper: attention has no experts, and the mutual
information is that of a row. lm/feed_forwards/routing.py has the arithmetic of both.

Letters as in lm/shape.py; N tokens of a pass, X experts, A experts that a token goes through, M = N x A.
"""

import math
from functools import cache
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from kernels.swiglu import swiglu
from lm.context import autocast_dtype
from lm.feed_forwards.grouped import grouped_product
from lm.feed_forwards.routing import (
    expert_choice_mask,
    information_loss,
    is_plain,
    quantile_loss,
    routing_weights,
    token_choice_mask,
    wide_product,
)
from lm.feed_forwards.swiglu import Gated
from lm.parts import Part
from lm.shape import Shape


def top_experts(logits_NX: Tensor, active: int, normalised: bool) -> tuple[Tensor, Tensor]:
    """(weights_NA, experts_NA) of the experts with the largest logits: their share of the softmax over all experts, or, where
    normalised, the softmax over those A."""
    largest_NA, experts_NA = logits_NX.topk(active, -1)
    if normalised:
        return largest_NA.softmax(-1), experts_NA
    return (largest_NA - logits_NX.logsumexp(-1, keepdim=True)).exp(), experts_NA


def balance_loss(logits_BTX: Tensor, experts_BTA: Tensor) -> Tensor:
    """X times the sum over experts of (share of the choices that fell on it) x (mean probability of it), of each row, its mean
    over rows: 1 where both are even. The shares have no gradient."""
    X = logits_BTX.shape[-1]
    taken_BTX = torch.zeros_like(logits_BTX).scatter_(-1, experts_BTA, 1.0)
    shares_BX = taken_BTX.mean(1) / experts_BTA.shape[-1]
    return X * (shares_BX * logits_BTX.softmax(-1).mean(1)).sum(-1).mean()


def logit_loss(logits_BTX: Tensor) -> Tensor:
    """The squared log-sum-exp of the logits, its mean over tokens."""
    return logits_BTX.logsumexp(-1).square().mean()


def is_recorded(x: Tensor) -> bool:
    """Whether a CUDA graph of a sampler's step is being recorded, in which the host reads no counts."""
    on_gpu = not torch.is_grad_enabled() and x.is_cuda and torch.cuda.is_available()
    return on_gpu and torch.cuda.is_current_stream_capturing()


class RoutedExperts(nn.Module):
    """(y_BTD, loss) of x_BTD, the loss being there in training alone.

    Tokens are sorted by expert, and each expert has one product a matrix. Where a matrix of an expert is more than its weight
    (`is_plain`), and while a CUDA graph is recorded, every expert reads every token and those not chosen count 0: X / A times
    the products, the same numbers to rounding.
    """

    def __init__(self, part: "Experts", shape: Shape) -> None:
        super().__init__()
        self.part = part
        self.router = nn.Linear(shape.width, part.experts, bias=False)
        self.experts = nn.ModuleList(Gated(part.of_expert(shape, 1)) for _ in range(part.experts))
        if part.shared:
            self.shared = Gated(part.of_expert(shape, part.shared))
        if part.shared_gate:
            self.shared_gate = nn.Linear(shape.width, 1, bias=False)
        self.has_threshold = part.router == "expert_choice" and part.active < part.experts
        if self.has_threshold:  # of logarithms of shares, which a router begins with nearly alike
            self.threshold = nn.Parameter(torch.full((part.experts,), -math.log(part.experts)))

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Tensor | None]:
        part = self.part
        logits_BTX = wide_product(self.router, x_BTD)
        y_BTD = self.by_token(x_BTD, logits_BTX) if part.router == "token_top_k" else self.by_choice(x_BTD, logits_BTX)
        if part.shared:
            shared_BTD = self.shared(x_BTD)
            y_BTD = y_BTD + (self.shared_gate(x_BTD).sigmoid() * shared_BTD if part.shared_gate else shared_BTD)
        return y_BTD, self.loss(logits_BTX) if self.training else None

    def loss(self, logits_BTX: Tensor) -> Tensor | None:
        """What the router adds to the loss of training; None: nothing."""
        part = self.part
        losses: list[Tensor] = []
        if part.balance and part.router == "token_top_k":
            losses.append(
                part.balance * balance_loss(logits_BTX, top_experts(logits_BTX, part.active, part.normalised)[1])
            )
        if part.balance and part.router == "dense":
            losses.append(part.balance * information_loss(logits_BTX))
        if self.has_threshold:
            share = part.active / part.experts
            losses.append(quantile_loss(logits_BTX.log_softmax(-1), self.threshold, share))
        if part.router_z:
            losses.append(part.router_z * logit_loss(logits_BTX))
        return sum(losses[1:], losses[0]) if losses else None

    def are_plain(self, x_BTD: Tensor) -> bool:
        """Whether each expert reads its own tokens alone in this pass."""
        matrices = [layer for layer in self.experts.modules() if isinstance(layer, nn.Linear)]
        return all(map(is_plain, matrices)) and not is_recorded(x_BTD)

    def by_token(self, x_BTD: Tensor, logits_BTX: Tensor) -> Tensor:
        """y_BTD of tokens that each have A experts."""
        weights_NA, experts_NA = top_experts(logits_BTX.flatten(0, -2), self.part.active, self.part.normalised)
        if self.are_plain(x_BTD):
            return self.by_expert(x_BTD.flatten(0, -2), weights_NA, experts_NA).view(x_BTD.shape)
        weights_NX = weights_NA.new_zeros(len(weights_NA), len(self.experts)).scatter(1, experts_NA, weights_NA)
        return self.by_all(x_BTD, weights_NX)

    def by_choice(self, x_BTD: Tensor, logits_BTX: Tensor) -> Tensor:
        """y_BTD of tokens that have as many experts as come to it."""
        part, T = self.part, x_BTD.shape[-2]
        if part.router == "dense":
            if self.training:
                return self.by_all(x_BTD, logits_BTX.softmax(-1).flatten(0, -2))
            chosen_BTX, most = token_choice_mask(logits_BTX, part.active, part.epsilon), T * part.active
        elif not self.has_threshold:
            chosen_BTX, most = torch.ones_like(logits_BTX, dtype=torch.bool), T * part.experts
        elif self.training:
            scores_BTX = logits_BTX.log_softmax(-1)
            chosen_BTX, most = (
                expert_choice_mask(scores_BTX, part.active),
                -(-T * part.active // part.experts) * part.experts,
            )
        else:
            chosen_BTX, most = logits_BTX.log_softmax(-1) > self.threshold, T * part.experts
        weights_NX = routing_weights(logits_BTX, chosen_BTX, part.normalised).flatten(0, -2)
        if not self.are_plain(x_BTD):
            return self.by_all(x_BTD, weights_NX)
        pairs = x_BTD.shape[:-2].numel() * most
        return self.by_pair(x_BTD.flatten(0, -2), weights_NX, chosen_BTX.flatten(0, -2), pairs).view(x_BTD.shape)

    def by_expert(self, x_ND: Tensor, weights_NA: Tensor, experts_NA: Tensor) -> Tensor:
        """y_ND by products over the tokens of each expert."""
        dtype = autocast_dtype(x_ND) or x_ND.dtype
        order_M = experts_NA.flatten().argsort(stable=True)
        places_XM = torch.arange(len(self.experts), device=x_ND.device)[:, None] == experts_NA.flatten()
        counts_X = places_XM.sum(1).cpu()  # read by each product: a GPU's host waits here, once a layer
        # repeated first, and then put in order: no sum of the backward depends on who comes first
        many_MD = x_ND.to(dtype)[:, None].expand(-1, self.part.active, -1).flatten(0, 1).index_select(0, order_M)
        made_MD = self.products(many_MD, counts_X).index_select(0, order_M.argsort())
        return (made_MD.view(*experts_NA.shape, -1) * weights_NA[..., None].to(dtype)).sum(1)

    def by_pair(self, x_ND: Tensor, weights_NX: Tensor, chosen_NX: Tensor, most: int) -> Tensor:
        """y_ND by products over the tokens of each expert. most: how many pairs of a token and an expert there may be; shapes
        are the same however many there are."""
        dtype = autocast_dtype(x_ND) or x_ND.dtype
        chosen_P = chosen_NX.T.flatten()  # the pairs of the first expert, then of the second
        order_M = (~chosen_P).to(torch.uint8).argsort(stable=True)[:most]
        tokens_M = order_M % len(x_ND)
        made_MD = self.products(x_ND.to(dtype).index_select(0, tokens_M), chosen_NX.sum(0).cpu())
        weighed_MD = made_MD * weights_NX.T.flatten()[order_M, None].to(dtype)
        return torch.zeros_like(x_ND, dtype=dtype).index_add(0, tokens_M, weighed_MD)

    def products(self, many_MD: Tensor, counts_X: Tensor) -> Tensor:
        """made_MD of the rows, the first counts_X[0] of which are the first expert's; 0 of those that are nobody's."""
        gates, ups, downs = (
            [expert.get_parameter(f"{name}.weight").to(many_MD.dtype) for expert in self.experts]
            for name in ("gate", "up", "down")
        )
        inner_MF = swiglu(grouped_product(many_MD, counts_X, gates), grouped_product(many_MD, counts_X, ups))
        return grouped_product(inner_MF, counts_X, downs)

    def by_all(self, x_BTD: Tensor, weights_NX: Tensor) -> Tensor:
        """y_BTD by products over all tokens."""
        y_BTD = torch.zeros_like(x_BTD, dtype=autocast_dtype(x_BTD))
        for expert, weights_N in zip(self.experts, weights_NX.unbind(1), strict=True):
            made_BTD = expert(x_BTD)
            y_BTD = y_BTD + made_BTD * weights_N.view(*x_BTD.shape[:-1], 1).to(made_BTD.dtype)
        return y_BTD


class Experts(Part):
    name: Literal["experts"] = "experts"
    experts: int = Field(8, gt=1)
    router: Literal["token_top_k", "expert_choice", "dense"] = Field(
        "token_top_k",
        description="tokens choose experts; or experts choose tokens while it trains; or all experts are trained on all tokens",
    )
    active: int = Field(
        2,
        gt=0,
        description="experts that a token goes through, at most as many as there are; with expert_choice on average, with "
        "dense when it does not train",
    )
    width: int = Field(0, ge=0, description="of each expert's inner layer; 0: ffn_width")
    normalised: bool = Field(
        True,
        description="a token's weights are the softmax over its experts (Mixtral), and not their share of that over all",
    )
    shared: int = Field(0, ge=0, description="experts of that width that every token goes through beside its own")
    shared_gate: bool = Field(
        False, description="what these make is weighed by the sigmoid of a product with the token"
    )
    epsilon: float = Field(
        0.0, ge=0, lt=1, description="with dense, the share at or below which only a token's likeliest expert is active"
    )
    balance: float = Field(
        0.01,
        ge=0,
        description="weight of the loss that is 1 where experts have equal loads; with dense of the mutual information of "
        "tokens and experts; expert_choice, whose loads are equal, has none",
    )
    router_z: float = Field(0.001, ge=0, description="weight of the squared log-sum-exp of the router's logits")

    @model_validator(mode="after")
    def _can_learn(self) -> "Experts":
        if self.active > self.experts:
            raise ValueError(f"active: {self.active} of {self.experts} experts: take as many at most")
        if self.epsilon and self.router != "dense":
            raise ValueError("epsilon: leaves out experts of router dense alone")
        if self.router == "expert_choice" and self.normalised:
            raise ValueError(
                "normalised: experts that choose tokens weigh them by their share of the softmax over all: set it to false"
            )
        if self.active == 1 and self.normalised and self.router != "dense":
            raise ValueError(
                "active: one expert's weight is always 1, of which a router learns nothing: normalised: false"
            )
        if self.shared_gate and not self.shared:
            raise ValueError("shared_gate: there is no shared expert: shared: 1")
        return self

    @property
    def into_stream(self) -> tuple[str, ...]:  # type: ignore[override]
        own = tuple(f"experts.{index}.down" for index in range(self.experts))
        return (*own, "shared.down") if self.shared else own

    @property
    def hugging_face(self) -> dict[str, str]:  # type: ignore[override]
        """Names of Qwen's; lm/hugging_face/load.py has Mixtral's."""
        return _names(self.experts)

    def of_expert(self, shape: Shape, count: int) -> Shape:
        """The shape in which `count` experts are one feed-forward layer."""
        return shape.model_copy(update={"ffn_width": count * (self.width or shape.ffn_width)})

    def build(self, shape: Shape) -> RoutedExperts:
        return RoutedExperts(self, shape)

    def family(self, shape: Shape) -> str:
        """Hugging Face's name of the architecture that a decoder of this shape with these experts has. Raises ValueError where
        there is none."""
        if self.router == "expert_choice":
            raise ValueError(
                "experts that choose tokens are exported nowhere: no Hugging Face family has their thresholds"
            )
        if self.epsilon:
            raise ValueError(
                "experts are exported with epsilon 0 alone: every Hugging Face family has active ones for a token"
            )
        if self.shared:
            if shape.qk_norm or not self.shared_gate:
                raise ValueError("a shared expert is exported as Qwen2-MoE alone: with shared_gate and without qk_norm")
            return "qwen2_moe"
        if shape.qk_norm:
            return "qwen3_moe"
        if shape.qkv_bias or not self.normalised:
            missing = "qkv_bias without a shared expert" if shape.qkv_bias else "weights that are not normalised"
            raise ValueError(f"experts without qk_norm are exported as Mixtral, which has no {missing}")
        return "mixtral"

    def hugging_face_config(self, shape: Shape) -> dict[str, Any]:
        """Keys of the whole model's. Its loss in training is not said in full: no family has router_z."""
        family, width = self.family(shape), self.width or shape.ffn_width
        said = {"model_type": family, "hidden_act": "silu", "num_experts_per_tok": self.active}
        said |= {"router_aux_loss_coef": self.balance, "output_router_logits": False}
        if family == "mixtral":
            return {**said, "num_local_experts": self.experts, "intermediate_size": width, "sliding_window": None}
        said |= {"num_experts": self.experts, "moe_intermediate_size": width, "norm_topk_prob": self.normalised}
        if family == "qwen2_moe":
            said |= {"shared_expert_intermediate_size": self.shared * width, "qkv_bias": shape.qkv_bias}
        return {**said, "decoder_sparse_step": 1}

    def unused_weights(self, shape: Shape) -> int:
        return (self.experts - self.active) * 3 * shape.width * (self.width or shape.ffn_width)

    def unused_weights_in_training(self, shape: Shape) -> int:
        return 0 if self.router == "dense" else self.unused_weights(shape)

    @property
    def trained_otherwise(self) -> bool:  # type: ignore[override]
        return self.router != "token_top_k" and self.active < self.experts


@cache
def _names(experts: int) -> dict[str, str]:
    layers = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
    found = {"router": "mlp.gate", "shared_gate": "mlp.shared_expert_gate"}
    for ours, theirs in layers.items():
        found[f"shared.{ours}"] = f"mlp.shared_expert.{theirs}"
        found |= {f"experts.{index}.{ours}": f"mlp.experts.{index}.{theirs}" for index in range(experts)}
    return found
