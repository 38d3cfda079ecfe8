"""Rollouts (G5): prompts of 64 tokens, 16 samples each, by a model of 350 million weights, beside transformers' generate."""

import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.check import Check
from benchmarks.gpu.measure import peak_memory, synchronize
from benchmarks.gpu.peers import llama
from benchmarks.gpu.watch import kernels_of
from lm.model import Decoder, ModelConfig
from lm.sampler import generate
from lm.training.precision import autocast

PROMPT, SAMPLES = 64, 16
# without QK-norm, which the peer has not
SHAPE = ModelConfig(
    vocab_size=32768, width=1024, layers=24, heads=16, kv_heads=16, ffn_width=2816, context=2048, qk_norm=False
)
SMALL = SHAPE.model_copy(
    update={"vocab_size": 512, "width": 64, "layers": 2, "heads": 2, "kv_heads": 2, "ffn_width": 128}
)


def rollout(check: Check) -> None:
    """Sampled at temperature 1, no answer ends before its last token."""
    shape = SMALL if check.tiny else SHAPE
    cases = [(16, 8), (32, 8)] if check.tiny else [(64, 256), (512, 256)]  # rows, new tokens of each
    for rows, new in cases:
        generator = torch.Generator().manual_seed(0)
        prompts = torch.randint(shape.vocab_size, (rows // SAMPLES, PROMPT), generator=generator)
        written = prompts.repeat_interleave(SAMPLES, 0)
        label = f"{'few' if rows == cases[0][0] else 'many'} rows"
        ours(check, label, shape, written.tolist(), new)
        if find_spec("transformers"):
            theirs(check, label, shape, written.to(check.device), new)
        else:
            check.say(f"transformers, {label}", "not installed")


def ours(check: Check, label: str, shape: ModelConfig, prompts: list[list[int]], new: int) -> None:
    model = Decoder(shape, 0).to(check.device).eval()

    def write() -> None:
        with autocast("bf16" if check.on_gpu else "fp32", check.device):
            answers = generate(model, prompts, new, 1.0, -1, 0, rows=len(prompts))
        assert all(len(answer.ids) == new for answer in answers)

    # the first call captures, compiles and allocates what the next ones use
    first = tell(check, f"ours, {label}", write, len(prompts), new)
    check.say(f"ours, {label}: first call", first, "s")
    look(check, f"ours, {label}", write, new)


def look(check: Check, name: str, write: Callable[[], None], new: int) -> None:
    """Say where a token's time goes: kernels that run for it, and how long the card is busy with them."""
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if check.on_gpu else [])]) as seen:
        write()
        synchronize(check.device)
    kernels = kernels_of(seen, check.on_gpu)
    longest = {key[:60]: round(spent / new, 4) for spent, _, key in kernels[:8]}
    busy = sum(spent for spent, _, _ in kernels) / new
    calls = sum(count for _, count, _ in kernels) / new
    check.say(f"{name}: card busy, a token", busy if check.on_gpu else None, "ms", kernels=calls, longest=longest)


def theirs(check: Check, label: str, shape: ModelConfig, ids: torch.Tensor, new: int) -> None:
    """Generation by transformers, with its dynamic cache."""
    import transformers

    dtype = torch.bfloat16 if check.on_gpu else torch.float32
    model: Any = transformers.LlamaForCausalLM(llama(shape)).eval()
    model.to(check.device, dtype)
    settings: dict[str, Any] = {"do_sample": True, "top_k": 0, "pad_token_id": 0, "eos_token_id": None}

    def write() -> None:
        with torch.inference_mode():
            made = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, min_new_tokens=new, **settings
            )
        assert made.shape[1] == ids.shape[1] + new

    tell(check, f"transformers, {label}", write, len(ids), new)


def tell(check: Check, name: str, write: Callable[[], None], rows: int, new: int) -> float:
    """Say the speed of a second call and the peak of both; returns the seconds of the first."""
    seconds = []
    try:
        for _ in range(2):
            synchronize(check.device)
            began = time.perf_counter()
            write()
            synchronize(check.device)
            seconds.append(time.perf_counter() - began)
    except torch.cuda.OutOfMemoryError:
        check.say(name, "out of memory")
        return seconds[0] if seconds else float("nan")
    check.say(name, rows * new / seconds[1], "tok/s", rows=rows, new=new, ms_a_token=1e3 * seconds[1] / new)
    check.say(f"{name}: peak memory", peak_memory(check.device), "GB")
    if check.on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return seconds[0]
