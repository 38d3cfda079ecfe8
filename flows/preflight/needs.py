"""What a run will take, told from the parameters: bytes of disk that stages write, and the peak memory of those that train."""

from typing import Any

import torch

from flows.forecast.estimate import Machine, advice
from flows.forecast.forecasts import forecast_of
from flows.forecast.workload import distillation, pretraining, reinforcement, tuning
from flows.preflight.contracts import Sections, read_sections
from flows.preflight.resources import Needs
from lm.model import Decoder
from lm.training.memory import memory_bytes
from tasks.core.config import load
from tasks.ingest.stage import IngestConfig

# Bytes of a table of documents over those of their text: zstd makes 0.35 of code and 0.4 of prose.
PACKED = 0.5
# Bytes of text a token, at the least: 2.4 with 2,048 tokens of BPE on code, 4.5 with 32,768 on English.
BYTES_A_TOKEN = 2.2
# What .gz, .zst and Parquet become when they are read.
EXPANDED = 4
PACKED_ENDINGS = (".gz", ".zst", ".parquet")
# Of a row of the plan, packed; of a token in tokenizer.json; of weights, gradients and AdamW's moments
PLAN_ROW, TOKENIZER_ROW, STATE = 8, 60, 16
# Of each byte of held-out text while tokenize looks for it in training: a 64-bit hash.
GRAM_KEY = 8


def text_bytes(config: IngestConfig) -> float:
    """UTF-8 bytes of text that ingest keeps, at most: a source gives its share or all it has."""
    total = 0.0
    for source in config.sources:
        share = float(config.share(source))
        if not source.endless:
            files = source.files(config.folder)
            share = min(share, sum(f.bytes * (EXPANDED if f.name.endswith(PACKED_ENDINGS) else 1) for f in files))
        total += share
    return total


def needs_of(params: dict[str, Any], names: set[str], imports: int | None = None) -> Needs:
    """Disk and memory that the stages of these names need; imports as forecast_of has it. Raises ConfigError for what
    contracts.py has already told of."""
    sections = read_sections(params)
    text = text_bytes(load("ingest", IngestConfig, params))
    outputs, scratch = disk_of(sections, text)
    memory, lower = memory_of(params, sections, names, imports)
    return Needs(
        {name: size for name, size in outputs.items() if name in names},
        {name: size for name, size in scratch.items() if name in names},
        memory,
        lower,
    )


def disk_of(s: Sections, text: float) -> tuple[dict[str, float], dict[str, float]]:
    """Bytes of each stage's output, and of its scratch at most: parts of data stages, two checkpoints of training."""
    tokens = text / (1.0 if s.tokenize.method.name == "bytes" else BYTES_A_TOKEN)
    with torch.device("meta"):
        weights = Decoder(s.shape).num_parameters()
        learned = Decoder(s.shape.model_copy(update={"layers": s.distill.student_layers})).num_parameters()
    tokenizer = TOKENIZER_ROW * s.shape.vocab_size
    model, student, packed = 4 * weights + tokenizer, 4 * learned + tokenizer, learned + tokenizer
    outputs = {
        "ingest": PACKED * text,
        "dedup": PACKED * text,
        "filter": PACKED * text,
        "tokenize": tokens * (2 if s.shape.vocab_size <= 1 << 16 else 4)
        + PACKED * text * s.tokenize.held_out_fraction
        + tokenizer,
        "curriculum": PLAN_ROW * 2 * s.curriculum.tokens / s.length,
        **dict.fromkeys(("pretrain", "sft", "rl"), float(model)),
        "distill": float(student),
        "quantize": float(packed),
    }
    trained = dict.fromkeys(("pretrain", "sft", "rl"), 2.0 * STATE * weights) | {"distill": 2.0 * STATE * learned}
    parts = {"ingest": text, "tokenize": GRAM_KEY * text * s.tokenize.held_out_fraction}
    return outputs, {name: trained.get(name, size + parts.get(name, 0)) for name, size in outputs.items()}


def memory_of(
    params: dict[str, Any], s: Sections, names: set[str], imports: int | None
) -> tuple[dict[str, float], dict[str, str]]:
    """Bytes of the peak of each training stage, and what to lower: by `make plan`'s rehearsal on tensors without memory."""
    here = this_memory()
    builders = {"pretrain": pretraining, "sft": tuning, "rl": reinforcement, "distill": distillation}
    memory, lower = {}, {}
    for name, builder in builders.items():
        if name in names:
            work = builder(params, s.shape)
            found = forecast_of(work, here, imports)
            memory[name], lower[name] = found.bytes, advice(work.stage, found, here).partition("; ")[2]
    return memory, lower


def this_memory() -> Machine:
    """This machine, for its memory alone: the speeds are 1, by which every stage lasts long enough for a checkpoint."""
    on_gpu = torch.cuda.is_available()
    return Machine("this machine", on_gpu, memory_bytes(torch.device("cuda" if on_gpu else "cpu")), 1.0, 1.0)
