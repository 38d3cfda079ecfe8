"""Adapters in the format of the library peft: adapter_config.json and adapter_model.safetensors in one folder.

LoRA with what it is made of (rsLoRA, DoRA; ranks and alphas by pattern) and VeRA are written and read, AdaLoRA is read. What
AdaLoRA has learned is written as the LoRA that it comes to, and so is what began as a part of a matrix, as PiSSA does.

Letters: O outputs, I inputs, R rank.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lm.files import write_json
from lm.hugging_face.load import read_json, their_name
from lm.linears.adapter import AdapterState, low_rank, scale_of
from lm.linears.dora import resized
from lm.model import ModelConfig

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # of every tensor: peft's own two modules around the model
DOWN, UP, MAGNITUDE = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"
ADALORA_DOWN, ADALORA_UP, ADALORA_VALUES = ".lora_A", ".lora_B", ".lora_E"
INNER, OUTER = ".vera_lambda_d", ".vera_lambda_b"
CALLED = {"LORA": "LoRA", "ADALORA": "AdaLoRA", "VERA": "VeRA"}
SHARED = {"down": "base_model.vera_A", "up": "base_model.vera_B"}
# What of an adapter_config.json would ask for something else than a thin product beside a matrix, with the values that do not.
ABSENT: dict[str, tuple[Any, ...]] = {
    "peft_type": tuple(CALLED),
    "bias": ("none", None),
    "fan_in_fan_out": (False, None),
    "modules_to_save": (None, []),
    "layer_replication": (None, []),
    "lora_bias": (False, None),
    "use_qalora": (False, None),
    "alora_invocation_tokens": (None,),
    "init_lora_weights": (True, False, None, "gaussian", "orthogonal"),  # others change the matrix beside it, too
}


@dataclass(frozen=True)
class Delta:
    """What an adapter makes of the matrix of one layer. shared: down_RI has the columns of the layer with most inputs."""

    down_RI: Tensor
    up_OR: Tensor
    scale: float
    magnitude_O: Tensor | None = None
    shared: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        return self.up_OR.shape[0], self.down_RI.shape[1]

    def of(self, inputs: int) -> "Delta":
        """What it is of a layer that has so many inputs."""
        return replace(self, down_RI=self.down_RI[:, :inputs]) if self.shared else self

    def merged(self, weight_OI: Tensor) -> Tensor:
        """weight_OI with it, computed in fp32, in the dtype of the weight."""
        found = low_rank(weight_OI.float(), self.up_OR, self.down_RI, self.scale)
        return (found if self.magnitude_O is None else resized(found, self.magnitude_O)).to(weight_OI.dtype)


def save_adapter(folder: Path, learned: AdapterState, config: ModelConfig) -> None:
    """Write an adapter that was trained beside a model of this shape. Layers are called as Hugging Face calls them; as we do,
    where a part of the model has no name there."""
    try:
        names = {name: their_name(f"{name}.weight", config).removesuffix(".weight") for name in learned.layers}
    except ValueError:
        names = {name: name for name in learned.layers}
    described = {
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": learned.method.rank,
        "target_modules": sorted(names.values()),
        "bias": "none",
        "fan_in_fan_out": False,
    }
    tensors, more = (_vera if learned.shared else _lora)(learned, names)
    written = {name: part.float().cpu().contiguous() for name, part in tensors.items()}
    save_file(written, folder / WEIGHTS, {"format": "pt"})
    write_json(folder / CONFIG, described | more)


def _lora(learned: AdapterState, names: dict[str, str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, what else the description says) of thin matrices."""
    method: Any = learned.method
    tensors, ranks = dict[str, Tensor](), dict[str, int]()
    for name, parts in learned.layers.items():
        found = {DOWN: parts["down"], UP: parts["up"]}
        found |= {MAGNITUDE: parts["magnitude"]} if "magnitude" in parts else {}
        tensors |= {PREFIX + names[name] + kind: part for kind, part in found.items()}
        if len(parts["down"]) != method.rank:
            ranks[names[name]] = len(parts["down"])
    return tensors, {
        "peft_type": "LORA",
        "rank_pattern": ranks,
        "lora_alpha": int(method.alpha) if method.alpha.is_integer() else method.alpha,
        "use_rslora": method.scaling == "root_rank",
        "use_dora": any("magnitude" in parts for parts in learned.layers.values()),
        "lora_dropout": 0.0,
        "init_lora_weights": True,
    }


def _vera(learned: AdapterState, names: dict[str, str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, what else the description says) of shared matrices, which are there too, and vectors."""
    tensors = {SHARED[part]: matrix for part, matrix in learned.shared.items()}
    for name, parts in learned.layers.items():
        tensors |= {PREFIX + names[name] + INNER: parts["inner"], PREFIX + names[name] + OUTER: parts["outer"]}
    return tensors, {
        "peft_type": "VERA",
        "projection_prng_key": learned.method.seed,
        "save_projection": True,
        "vera_dropout": 0.0,
        "init_weights": True,
    }


def read_adapter(folder: Path) -> dict[str, Delta]:
    """What the adapter in a folder makes of each layer, by the layer's name. Raises ValueError, in a line that names the file,
    for one that is not whole, or asks for more than a product beside a matrix."""
    config = _config_of(folder)
    path = folder / WEIGHTS
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        pickled = "; adapter_model.bin is a pickle, which is not read: save it again with a newer peft"
        raise ValueError(f"{path}: no such file{pickled if (folder / 'adapter_model.bin').exists() else ''}") from None
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from None
    kinds, delta = KINDS[config["peft_type"]]
    shares = config["peft_type"] == "VERA"
    shared = {name: tensors.pop(name).float() for name in SHARED.values() if shares and name in tensors}
    if shares and len(shared) < len(SHARED):
        raise ValueError(f"{path}: has no {SHARED['down']} and {SHARED['up']}: save it again with save_projection")
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kind = next((kind for kind in kinds if name.endswith(kind)), None)
        if kind is None or not name.startswith(PREFIX):
            raise ValueError(f"{path}: {name} is no part of a {CALLED[config['peft_type']]} of a matrix")
        parts.setdefault(name.removeprefix(PREFIX).removesuffix(kind), {})[kind] = tensor.float()
    if not parts:
        raise ValueError(f"{path}: has no tensors")
    for layer, found in parts.items():
        if not all(torch.isfinite(part).all() for part in (*found.values(), *shared.values())):
            raise ValueError(f"{path}: {layer} has NaN or infinite entries")
    return {layer: delta(path, layer, found | shared, config) for layer, found in sorted(parts.items())}


def _config_of(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.exists():
        raise ValueError(f"{path}: no such file; is {folder} the folder of an adapter that peft has saved?")
    config = {"r": 8, "init_r": 12, "lora_alpha": 8, "bias": "none", **read_json(path)}  # peft's own defaults
    for key, fine in ABSENT.items():
        if config.get(key) not in fine:
            kinds = "LoRA, DoRA, AdaLoRA and VeRA"
            raise ValueError(f"{path}: {key} {config.get(key)!r} is not supported: only {kinds} of matrices are")
    for key, kind in (("r", int), ("init_r", int), ("lora_alpha", int | float)):
        if not isinstance(config[key], kind) or isinstance(config[key], bool) or not 0 < config[key] < math.inf:
            raise ValueError(f"{path}: {key} {config[key]!r} is no number above 0")
    return config


def _delta(path: Path, layer: str, parts: dict[str, Tensor], config: dict[str, Any]) -> Delta:
    wanted = {DOWN, UP} | ({MAGNITUDE} if config.get("use_dora") else set())
    if parts.keys() != wanted:
        missing, more = sorted(wanted - parts.keys()), sorted(parts.keys() - wanted)
        said = f"has no {layer}{missing[0]}" if missing else f"has {layer}{more[0]}, and {CONFIG} does not say use_dora"
        raise ValueError(f"{path}: {said}")
    down, up, magnitude = parts[DOWN], parts[UP], parts.get(MAGNITUDE)
    rank = _by_pattern(config.get("rank_pattern"), layer, config["r"])
    fits = down.ndim == up.ndim == 2 and down.shape[0] == up.shape[1] == rank
    if not fits or (magnitude is not None and magnitude.shape != up.shape[:1]):
        shapes = ", ".join(f"{kind[1:].partition('.')[0]} {tuple(part.shape)}" for kind, part in parts.items())
        raise ValueError(f"{path}: {layer}: {shapes} do not fit each other and the rank {rank} of {CONFIG}")
    alpha = _by_pattern(config.get("alpha_pattern"), layer, config["lora_alpha"])
    return Delta(down, up, scale_of(alpha, rank, "root_rank" if config.get("use_rslora") else "rank"), magnitude)


def _adalora(path: Path, layer: str, parts: dict[str, Tensor], config: dict[str, Any]) -> Delta:
    """What counts is that of the first rank, whatever is left of it, and 1e-5 as in peft."""
    down, up, values = (_part(path, layer, parts, kind) for kind in (ADALORA_DOWN, ADALORA_UP, ADALORA_VALUES))
    if not (down.ndim == up.ndim == 2 and len(down) == up.shape[1] and values.shape == (len(down), 1)):
        shapes = ", ".join(str(tuple(part.shape)) for part in (down, up, values))
        raise ValueError(f"{path}: {layer}: lora_A, lora_B and lora_E of {shapes} do not fit each other")
    return Delta(values * down, up, config["lora_alpha"] / (config["init_r"] + 1e-5))


def _vera_delta(path: Path, layer: str, parts: dict[str, Tensor], config: dict[str, Any]) -> Delta:
    inner, outer = (_part(path, layer, parts, kind) for kind in (INNER, OUTER))
    down, up = parts[SHARED["down"]], parts[SHARED["up"]]
    fits = down.ndim == up.ndim == 2 and inner.shape == down.shape[:1] == up.shape[1:] and outer.ndim == 1
    if not fits or len(outer) > len(up):
        shapes = ", ".join(str(tuple(part.shape)) for part in (inner, outer, down, up))
        raise ValueError(
            f"{path}: {layer}: vera_lambda_d, vera_lambda_b, vera_A and vera_B of {shapes} do not fit each other"
        )
    return Delta(inner[:, None] * down, outer[:, None] * up[: len(outer)], 1.0, shared=True)


def _part(path: Path, layer: str, parts: dict[str, Tensor], kind: str) -> Tensor:
    if kind not in parts:
        raise ValueError(f"{path}: has no {layer}{kind}")
    return parts[kind]


# Of each kind of adapter the ends of its tensors' names, and what makes a delta of those of a layer
Made = Callable[[Path, str, dict[str, Tensor], dict[str, Any]], Delta]
KINDS: dict[str, tuple[tuple[str, ...], Made]] = {
    "LORA": ((DOWN, UP, MAGNITUDE), _delta),
    "ADALORA": ((ADALORA_DOWN, ADALORA_UP, ADALORA_VALUES), _adalora),
    "VERA": ((INNER, OUTER), _vera_delta),
}


def _by_pattern(patterns: dict[str, Any] | None, layer: str, default: Any) -> Any:
    """The first value whose key, a name or a regular expression, is the end of the layer's name, as peft has it."""
    found = (value for key, value in (patterns or {}).items() if re.fullmatch(rf"(.*\.)?({key})", layer))
    return next(found, default)
