"""DeepSpeed's ZeRO: ranks hold a part of the optimizer's state (1), of the gradients too (2), of the weights too (3).

Rajbhandari et al. 2020 (arXiv:1910.02054). The one file that imports deepspeed.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import deepspeed
import torch
import torch.nn.functional as F
from deepspeed.utils import safe_get_full_optimizer_state, safe_set_full_optimizer_state, safe_set_local_optimizer_state
from torch import Tensor

from lm.config import ConfigError
from lm.distributed import rank, world_size
from lm.linears.base import rates_of, roles_of
from lm.model import Decoder
from lm.optimizers.base import SCALARS, Optimizer, with_rates
from lm.training.batch import Batch, Metrics
from lm.training.parallel.ddp import DDP, Call, refuse
from lm.training.parallel.fsdp import make_plain
from lm.training.recipe import Recipe

Result = TypeVar("Result")


def _in_autocast(call: Callable[..., Result], model: Decoder) -> Callable[..., Result]:
    """The call in the autocast of now, which the engine would switch off: its own also rounds the gradients it sends."""
    kind = model.cos_TE.device.type
    enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)

    def inside(*arguments: Any) -> Result:
        with torch.autocast(kind, dtype, enabled):
            return call(*arguments)

    return inside


def piece_of(value: Tensor, numbers: int, number: int) -> Tensor:
    """What the rank of this number holds of a tensor that ZeRO-3 cuts into pieces of so many numbers each: those behind the
    tensor's end are zeros, and so is a whole piece where there are more ranks than numbers."""
    mine = value.flatten()[numbers * number : numbers * (number + 1)]
    return F.pad(mine, (0, numbers - len(mine)))


class Zero(DDP):
    """The engine flattens the weights of a group and cuts them among ranks, so the optimizer sees pieces of one long vector.

    It clips and updates in one go: `clip` does both, and `step` nothing. offload: what is cut among the ranks is in host
    memory.
    """

    can_move = False

    def __init__(self, stage: int, offload: bool, recipe: Recipe) -> None:
        if recipe.skip_sigmas:
            raise ConfigError(
                "skip_sigmas: ZeRO knows a gradient's norm only after the update: set it to 0, or use fsdp"
            )
        if stage == 3 and recipe.average.name != "last":
            raise ConfigError(
                f"average: {recipe.average.name} needs the weights, which zero3 has cut: use zero2 or fsdp"
            )
        self._stage, self._offload, self._clip = stage, offload, recipe.clip
        # fp32 weight, gradient, fp32 copy and two moments
        cut = {1: 12, 2: 16, 3: 20}[stage]
        self.bytes_a_weight = 20 - cut + (0.0 if offload else cut / world_size())
        if stage == 3:
            self.bytes_a_frozen_weight = 0.0 if offload else 4.0 / world_size()

    def distribute(self, model: Decoder, method: Any) -> Optimizer:
        held: Any = model.linear
        if held.rewrites_weights():
            raise ConfigError(
                f"linear: {held.name} changes weights between steps, which ZeRO keeps in pieces of its own: set "
                "TOKENMILL_PARALLEL to exact or ddp"
            )
        if self._stage == 3 and model.prompt is not None:
            raise ConfigError(
                "soft_prompt: zero3 cuts it, and it is read whole: set TOKENMILL_PARALLEL to zero2 or fsdp"
            )
        device = model.cos_TE.device
        named = [(n, w) for n, w in model.named_parameters() if w.requires_grad]
        optimizer = with_rates(method.build(named, roles_of(model)), named, rates_of(model))
        refuse(
            method,
            freezes=optimizer.freezes,
            exchanges=optimizer.exchanges,
            whole_tensors=optimizer.whole_tensors,
            coded=optimizer.is_coded,
            finishes=type(optimizer).finish is not Optimizer.finish,
        )
        self._know(model, optimizer, dict(model.named_parameters()), model.state_dict())
        zero: dict[str, Any] = {"stage": self._stage}
        if self._offload:
            zero["offload_optimizer"] = {"device": "cpu", "pin_memory": device.type == "cuda"}
            zero |= {"offload_param": zero["offload_optimizer"]} if self._stage == 3 else {}
        self.module, *_ = deepspeed.initialize(
            model=Call(model),
            optimizer=optimizer,
            config={
                "train_micro_batch_size_per_gpu": 1,  # never used: the loop decides, and says where a step ends
                "gradient_clipping": self._clip,
                "zero_optimization": zero,
                "zero_allow_untested_optimizer": True,
                "zero_force_ds_cpu_optimizer": False,
            },
        )
        if self._stage == 3:
            deepspeed.zero.register_external_parameter(self.module.module, model.head_weight)
        self._begin_state({})
        return optimizer

    def _begin_state(self, scalars: dict[str, Tensor]) -> None:
        """Zeros for each piece, and these numbers: the engine links the pieces to the weights once, after the first group's
        first update (DeepSpeed 0.19.8), when those of other groups have no state yet."""
        engine, groups = self.module.optimizer, self.optimizer.param_groups
        if self._stage == 3:
            pieces = zip(engine.fp32_partitioned_groups_flat, engine.sub_group_to_group_id.values(), strict=True)
        else:
            pieces = zip(engine.single_partition_of_fp32_groups, range(len(groups)), strict=True)
        for piece, index in pieces:
            self.optimizer.state[piece] = {
                slot: scalars.get(slot, torch.zeros((), dtype=SCALARS[slot])).clone()
                if slot in SCALARS
                else torch.zeros_like(piece)
                for slot in groups[index]["slots"]
            }
        if self._stage < 3:
            engine._hp_optimizer_states_linked = False
            engine._lazy_init_hp_params_optimizer_state()

    def call(self, call: Callable[[], Result]) -> Result:
        return self.module(_in_autocast(call, self.model))

    def share(self, batch: Batch, rows: slice, last: bool) -> tuple[Tensor, Metrics]:
        share, metrics = self.module(_in_autocast(batch.loss, self.model), rows)
        self.module.set_gradient_accumulation_boundary(last)
        self.module.backward(share * world_size())
        return share.detach(), metrics

    def clip(self, limit: float) -> Tensor:
        self.module.step()
        return torch.as_tensor(self.module.get_global_grad_norm())

    def step(self) -> None:
        """Do nothing: `clip` has updated the weights."""

    def zero_grad(self) -> None:
        """Do nothing: the engine drops the gradients after its step."""

    def local_parameters(self) -> dict[str, Tensor]:
        return {} if self._stage == 3 else super().local_parameters()

    def weights(self) -> dict[str, Tensor]:
        found = {}
        for name, weight in self.model.named_parameters():
            with deepspeed.zero.GatheredParameters(weight, enabled=self._stage == 3):
                found[name] = weight.detach().clone()
        return found

    @torch.no_grad()
    def load_model_state(self, weights: dict[str, Tensor]) -> None:
        for name, weight in self.model.named_parameters():
            with deepspeed.zero.GatheredParameters(weight, modifier_rank=0, enabled=self._stage == 3):
                weight.copy_(weights.get(name, weight))
        self.module.optimizer.refresh_fp32_params()

    def slots(self) -> dict[str, Tensor]:
        found = {}
        state = next(iter(self.optimizer.state.values()))
        for name, weight in self.model.named_parameters():
            for slot in self.slot_names.get(name, ()):
                whole = state[slot] if slot in SCALARS else safe_get_full_optimizer_state(weight, slot)
                found[f"{slot}.{name}"] = whole.view(self.shapes[name].shape if slot not in SCALARS else ())
        return found

    def load_optimizer_state(self, slots: dict[str, Tensor]) -> None:
        if not slots:
            return
        # every weight is updated in every step, so one number stands for all
        scalars = {key.partition(".")[0]: value for key, value in slots.items() if key.partition(".")[0] in SCALARS}
        self._begin_state(scalars)
        for name, weight in self.model.named_parameters():
            for slot in set(self.slot_names.get(name, ())) - SCALARS.keys():
                value = slots[f"{slot}.{name}"].to(self.model.cos_TE.device)
                if self._stage < 3:
                    safe_set_full_optimizer_state(weight, value, slot)
                else:  # of a whole value DeepSpeed 0.19.8 takes as many numbers for each rank, which may be more than there are
                    cut: Any = weight
                    safe_set_local_optimizer_state(weight, piece_of(value, cut.ds_tensor.numel(), rank()), slot)

    def finish(self) -> None:
        weights = self.weights()
        self.module.destroy()
        make_plain(self.model, weights)
        super().finish()
