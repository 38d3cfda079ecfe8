"""How many positions a backward pass may hold at once on this machine. It decides the order of sums, so it depends on the
size of the memory and not on what is free of it."""

import psutil
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from lm.memory_limits import memory_limits
from lm.model import Decoder
from lm.settings import POSITIONS
from lm.training.batch import Batch
from lm.training.parallel.base import Parallel
from lm.training.recomputing import selective_of, storages

# Of the memory there is; the rest is for the passing results of operators, the system, and other stages.
SHARE = 0.6


def memory_bytes(device: torch.device) -> int:
    """Bytes of memory of the GPU, else of the machine, or of as much of it as the control groups of this process allow."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return min([psutil.virtual_memory().total, *memory_limits()])


def saved_activation_bytes(model: nn.Module, batch: Batch, rows: int = 1) -> int:
    """Bytes that the loss of the first rows keeps for its backward, the weights aside; fake tensors have storages, too, though
    no addresses."""
    buffers = {buffer.untyped_storage()._cdata for buffer in model.buffers()}
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        is_weight = isinstance(tensor if tensor._base is None else tensor._base, nn.Parameter)
        if not is_weight and storage._cdata not in buffers:
            kept[storage._cdata] = storage.nbytes()
        return tensor.detach()  # an operator that saved its own output would else hold itself, and never be freed

    with saved_tensors_hooks(count, lambda tensor: tensor):
        loss, _ = batch.loss(slice(0, rows))  # held, so that no storage is used twice
        if (selective := selective_of(model)) is not None:
            kept |= storages(selective.saved_tensors())
    del loss
    # under autocast the step would go on with the casts made here, through which FSDP2 gives its weights no gradients
    torch.clear_autocast_cache()
    return sum(kept.values())


def positions_at_once(parallel: Parallel, batch: Batch, device: torch.device) -> int:
    """TOKENMILL_POSITIONS, else as many as fit a rank; 0 where too few do. Raises ConfigError for another setting."""
    if (given := POSITIONS.read()) is not None:
        return given
    memory = parallel.memory_share(device) * memory_bytes(device)
    return positions_in(memory, parallel.model, batch, parallel.bytes_a_weight, parallel.bytes_a_frozen_weight)


def positions_in(memory: float, model: Decoder, batch: Batch, trained: float, frozen: float) -> int:
    """Positions that fit a memory of so many bytes by the measure of the first two blocks of rows that stay together; 0 where
    one does not fit. trained, frozen: bytes for each weight that is, and is not, trained.

    What two keep only once, such as weights cast to bf16, does not grow with them.
    """
    learned = model.num_trained()
    held: dict[int, int] = {}  # layers may share what they hold
    for buffer in (buffer for layer in model.held.values() for buffer in layer.buffers()):
        storage = buffer.untyped_storage()._cdata
        held[storage] = max(held.get(storage, 0), buffer.nbytes)
    room = SHARE * memory - trained * learned - frozen * (model.num_parameters() - learned) - sum(held.values())
    block = batch.together
    first = saved_activation_bytes(model, batch, block)
    each = saved_activation_bytes(model, batch, 2 * block) - first if batch.rows > block else first
    if each <= 0:  # a second block without anything to learn from
        each = first
    fits = int((room - (first - each)) * (batch.length * block) / max(each, 1))
    return fits if fits >= batch.length * block else 0
