"""The other side of `packing`: the documents, and the packers of TRL, LLaMA-Factory and axolotl.

Imports numpy alone, so that the peers' environment can run it.
"""

import sys
import time
from collections.abc import Callable
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.turns import Turns

DOCUMENTS, CAPACITY, BATCH = 1_000_000, 2048, 1000
# axolotl's defaults of sample_packing_group_size and sample_packing_bin_size
GROUP, MOST_IN_A_BIN = 100_000, 200


def document_lengths(count: int) -> np.ndarray:
    """N lengths in tokens: lognormal, of mean 600, 20,000 at most."""
    generator = np.random.Generator(np.random.Philox(key=[6, 0]))
    return np.clip(generator.lognormal(np.log(600) - 0.5, 1.0, count).round(), 1, 20_000).astype(np.int64)


def figures(
    count: int, seconds: float, packed: int, bins: int, fullest: int
) -> tuple[dict[str, float], dict[str, float]]:
    """(values, answer). packed: tokens in all bins, of which the fullest has so many."""
    there = int(document_lengths(count).sum())
    values = {
        "speed": count / seconds,
        "use": 100 * packed / (bins * CAPACITY),
        "kept": 100 * packed / there,
    }
    return values, {"use": values["use"], "cropped": there - packed, "fullest": fullest}


def pack(turns: Turns, packer: str, count: int) -> None:
    """Samples of a peer; what it does with longer documents is its own, or, where it refuses them, they are cut short."""
    work = PACKERS[packer](document_lengths(count))
    while True:
        began = time.perf_counter()
        found = work()
        seconds = time.perf_counter() - began
        sizes = sizes_of(found, packer, count)
        turns(*figures(count, seconds, int(sizes.sum()), len(sizes), int(sizes.max())))


def sizes_of(found: Any, packer: str, count: int) -> np.ndarray:
    """The tokens of each bin."""
    if packer.startswith("trl"):
        return np.concatenate(
            [np.diff(table.column("input_ids").combine_chunks().offsets.to_numpy()) for table in found]
        )
    if packer == "axolotl":
        lengths = np.minimum(document_lengths(count), CAPACITY)
        return np.array([lengths[np.array(bin_)].sum() for bin_ in found])
    return np.array([sum(knapsack) for knapsack in found])


def trl(lengths: np.ndarray, batch: int) -> Callable[[], Any]:
    """TRL's function for tables, which also moves tokens, here of one byte. Longer documents are split, none is cropped."""
    import pyarrow as pa
    from trl.data_utils import _pack_bfd

    tables = []
    for first in range(0, len(lengths), batch):
        offsets = np.concatenate(([0], np.cumsum(lengths[first : first + batch]))).astype(np.int32)
        tokens = pa.ListArray.from_arrays(offsets, np.zeros(offsets[-1], dtype=np.int8))
        tables.append(pa.table({"input_ids": tokens}))
    return lambda: [_pack_bfd(table, CAPACITY, "split") for table in tables]


def llama_factory(lengths: np.ndarray, batch: int) -> Callable[[], Any]:
    """LLaMA-Factory's function, which empties the list that it gets; the batch is that of `datasets`, in which it is called.
    Its package asks for other versions of much that is here, so the file is loaded by itself."""
    folder = Path(find_spec("llamafactory").origin).parent  # type: ignore[union-attr, arg-type]
    spec = spec_from_file_location("llamafactory_processor_utils", folder / "data" / "processor" / "processor_utils.py")
    module = module_from_spec(spec)  # type: ignore[arg-type]
    sys.modules[module.__name__] = module  # where its dataclasses look
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    short = np.minimum(lengths, CAPACITY)

    def work() -> list[list[int]]:
        batches = [short[first : first + batch].tolist() for first in range(0, len(short), batch)]
        return [knapsack for numbers in batches for knapsack in module.greedy_knapsack(numbers, CAPACITY)]

    return work


def axolotl(lengths: np.ndarray) -> Callable[[], Any]:
    """axolotl's packer in two processes, with its defaults: first fit in the order of the documents, in groups."""
    from axolotl.utils.samplers.multipack import pack_group, pack_parallel

    short = np.minimum(lengths, CAPACITY)
    pack_group(short[:10], 0, CAPACITY, 10, MOST_IN_A_BIN)  # compiled here, and not in every process that is forked
    return lambda: pack_parallel(short, CAPACITY, GROUP, MOST_IN_A_BIN, num_processes=2)


PACKERS: dict[str, Callable[[np.ndarray], Callable[[], Any]]] = {
    "trl 1,000": lambda lengths: trl(lengths, BATCH),
    "trl whole": lambda lengths: trl(lengths, len(lengths)),
    "llama-factory 1,000": lambda lengths: llama_factory(lengths, BATCH),
    "llama-factory whole": lambda lengths: llama_factory(lengths, len(lengths)),
    "axolotl": axolotl,
}
