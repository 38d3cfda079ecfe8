"""Rollouts: prompts of 64 tokens, 16 samples each, by a model of 350 million weights, beside transformers' generate."""

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
    """Sampled at temperature 1, no answer ends before its last token. Ours and the peer's best come first, of both cases; what
    may take longer than the item has, generation with the peer's default cache, comes last."""
    shape = SMALL if check.tiny else SHAPE
    cases = (
        {"few rows": (16, 8), "many rows": (32, 8)} if check.tiny else {"few rows": (64, 256), "many rows": (512, 256)}
    )
    prompts = {label: prompt_ids(shape, rows) for label, (rows, _) in cases.items()}
    for label, (_, new) in cases.items():
        ours(check, label, shape, prompts[label].tolist(), new)
        if find_spec("transformers"):
            theirs(check, label, shape, prompts[label].to(check.device), new, "static")
        else:
            check.say(f"transformers, {label}", "not installed")
    if find_spec("transformers"):
        for label, (_, new) in cases.items():
            theirs(check, label, shape, prompts[label].to(check.device), new, "dynamic")


def prompt_ids(shape: ModelConfig, rows: int) -> torch.Tensor:
    """ids_RN: so many rows of random prompts, each SAMPLES times."""
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(shape.vocab_size, (rows // SAMPLES, PROMPT), generator=generator)
    return prompts.repeat_interleave(SAMPLES, 0)


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


def theirs(check: Check, label: str, shape: ModelConfig, ids: torch.Tensor, new: int, cache: str) -> None:
    """Generation by transformers. With a static cache it compiles the steps after the prompt by itself on a GPU, which its
    documents have as the first thing to do for speed; with the dynamic one, its default, it compiles nothing."""
    import transformers

    dtype = torch.bfloat16 if check.on_gpu else torch.float32
    model: Any = transformers.LlamaForCausalLM(llama(shape)).eval()
    model.to(check.device, dtype)
    settings: dict[str, Any] = {"do_sample": True, "top_k": 0, "pad_token_id": 0, "eos_token_id": None}
    settings |= {"cache_implementation": cache}

    def write() -> None:
        with torch.inference_mode():
            made = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, min_new_tokens=new, **settings
            )
        assert made.shape[1] == ids.shape[1] + new

    tell(check, f"transformers, {cache} cache, {label}", write, len(ids), new)


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
