"""What a model costs in arithmetic, and what accelerators could do in the same time."""

import re
from collections import Counter
from collections.abc import Iterable

import torch
from torch import nn

from lm.depth import Growth, block_order
from lm.linears.base import dense_flops, flops_of
from lm.model import HEADS, Decoder

# Dense bf16 with fp32 sums, FLOP/s, from NVIDIA's data sheets, where a figure with sparsity counts half; those of the RTX 5090
# and of the RTX PRO 6000 (Workstation Edition) from the appendices of the two RTX Blackwell architecture papers.
PEAKS = {
    "B200": 2.25e15, "H200": 989e12, "H200 NVL": 835e12, "H100": 989e12, "H100 NVL": 835e12, "H100 PCIe": 756e12,
    "H20": 148e12, "A100": 312e12, "A800": 312e12, "L40S": 362e12, "L4": 121e12, "A10G": 70e12, "RTX PRO 6000": 504e12,
    "RTX 5090": 209e12, "RTX 4090": 165e12, "RTX 3090": 71e12,
}  # fmt: skip
# Words by which another card, or a part of one, is called after a card: none of its figures holds for those.
OTHERS = {"D", "LAPTOP", "MAX", "MIG", "SUPER", "TI"}


def words(name: str) -> set[str]:
    """Words of a device's name, in capitals: `NVIDIA A100-SXM4-40GB` has NVIDIA, A100, SXM4 and 40GB."""
    return set(re.findall(r"[A-Z0-9.]+", name.upper()))


def card_of(device_name: str, cards: Iterable[str]) -> str | None:
    """The card that a device's name, as nvidia-smi prints it, means: all words of the card are in the name, and no other card
    has more of them. None where there is none, as for a laptop's version of a card and for a slice of one."""
    there = words(device_name)
    found = [card for card in cards if words(card) <= there and not OTHERS & there]
    return max(found, key=lambda card: len(words(card)), default=None)


def flops_per_token(model: Decoder, length: int) -> float:
    """FLOP a token, forward and backward, in sequences of `length` positions: of each matrix what its holder says, of a
    dense one `dense_flops`, and what embeddings, mixers and feed-forward layers say of their own, 6 * heads * head width *
    length of attention. Weights that a token leaves out cost nothing, each counting as the mean one of its part.

    What a prompt in front of each sequence costs is shared out among its tokens. Heads of tokens further ahead count as the
    layers that they are, each with a product of the output head. All counts as often as training passes over a token.
    Norms and pointwise work are left out; a tied embedding counts as the head alone. Of a model that grows the blocks that a
    pass goes through count, each as often as it does, those frozen without the gradients of their weights; a layer that a
    share of the tokens goes through for that share, among which its mixer mixes.
    """
    config, carried = model.config, getattr(model, HEADS, None)
    found = dense_flops(model.head_weight) + sum(part.flops(config) for part in config.embeddings)
    further = list(getattr(carried, "blocks", []))
    behind = length
    length += len(model.prompt or ())
    found += len(further) * dense_flops(model.head_weight)
    blocks = [(index, model.blocks[index]) for index in block_order(model.depth, config.layers)]
    frozen = model.depth.frozen if model.depth else frozenset[int]()
    for index, block in [*blocks, *((config.layers - 1, block) for block in further)]:
        parts = config.layer(index)
        for part, name in ((parts.mixer, "attention"), (parts.feed_forward, "ffn")):
            layers = [layer for layer in block.get_submodule(name).modules() if isinstance(layer, nn.Linear)]
            products = sum(flops_of(layer) for layer in layers)
            weights = sum(layer.in_features * layer.out_features for layer in layers)
            if index in frozen:
                products -= 2.0 * sum(layer.weight.numel() for layer in layers if layer.weight.requires_grad)
            seen = length if parts.depths is None else parts.depths.tokens(length)
            met = (
                products
                - products * part.unused_weights_in_training(config) / max(weights, 1)
                + part.flops(config, seen)
            )
            cost = met if parts.depths is None else parts.depths.share * met
            found += cost if length == behind else cost * length / behind
        if parts.depths is not None:
            found += flops_of(block.depths.router) + flops_of(block.depths.predictor)
    return found * model.passes


def forward_flops_per_token(model: Decoder, length: int) -> float:
    """FLOP a token of a pass without gradients: a third of those of a pass with the gradients of all."""
    stay = [weight for weight in model.parameters() if not weight.requires_grad]
    for weight in stay:
        weight.requires_grad_(True)
    found = flops_per_token(model, length) / 3
    for weight in stay:
        weight.requires_grad_(False)
    return found


def flops_of_steps(model: Decoder, length: int, growth: Growth, steps: int) -> list[float]:
    """FLOP a token in each step of a run of so many, whose model grows so."""
    depths = (growth.depth(model.config.layers, step, steps) for step in range(steps))
    kinds = [depth and depth._replace(shares=(1.0,) * len(depth.blocks)) for depth in depths]
    before, known = model.depth, {}
    for depth in dict.fromkeys(kinds):
        model.depth = depth
        known[depth] = flops_per_token(model, length)
    model.depth = before
    return [known[depth] for depth in kinds]


def mean_flops_per_token(model: Decoder, length: int, growth: Growth | None, steps: int) -> float:
    """FLOP a token in the mean of a run of so many steps, whose model grows so; None: it does not. Steps have as many tokens
    each."""
    if growth is None:
        return flops_per_token(model, length)
    counts = Counter(flops_of_steps(model, length, growth, steps))
    return sum(count * flops for flops, count in counts.items()) / steps


def peak_flops(device: torch.device) -> float | None:
    """FLOP/s of the device in bf16; None for a CPU and for GPUs that PEAKS lacks."""
    if device.type != "cuda":
        return None
    card = card_of(torch.cuda.get_device_name(device), PEAKS)
    return PEAKS[card] if card else None
