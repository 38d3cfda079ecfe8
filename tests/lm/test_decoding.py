"""Writing in rows: as a GPU does it (looks seldom, replays a step, keeps bf16, reads filled slots alone) beside a look at every
token by the same operators."""

import gc
import importlib
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lm import decoding, linears, mixers, sampler
from lm.config import methods_of
from lm.decoding import Rows, cast_once, cuda_graph, dtype_of_pass
from lm.linears.base import products_of
from lm.mixers.hyena import Filters
from lm.sampler import Completion, generate
from tests.lm.made_parts import stirred
from tests.lm.models import toy_model

CONTEXT, BUDGET, STOP = 96, 12, 21
PROMPTS = [[(5 * length + 3 * place) % 61 for place in range(length)] for length in (1, 3, 15, 17, 30, 60, 90, 95)]


def decided(**shape: object) -> torch.nn.Module:
    """A toy model whose distributions are far from uniform, and that draws STOP once in 15 tokens."""
    model = toy_model(seed=4, **{"context": CONTEXT, "vocab_size": 61, **shape})
    with torch.no_grad():
        model.embedding.weight.mul_(8)
    return model


MODEL = decided()


class Recorded(TorchDispatchMode):
    """A CUDA graph's stand-in: the operators of a step with the very tensors they were given, results written where they were
    written when it was recorded. What the host knows is as it was then; nothing has been computed by recording."""

    def __init__(self, step: Callable[[], None]) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self._before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}
        with self:
            step()
        for storage, held in self._before.values():
            storage.copy_(held)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            for tensor in tree_leaves((args, kwargs)):
                if isinstance(tensor, Tensor):
                    storage = tensor.untyped_storage()
                    self._before.setdefault(storage.data_ptr(), (storage, storage.clone()))
        made = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, made))
        return made

    def __call__(self) -> None:
        for func, args, kwargs, made in self.calls:
            for there, again in zip(tree_leaves(made), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(there, Tensor) and there.data_ptr() != again.data_ptr():
                    there.copy_(again)


def written(
    prompts: list[list[int]], every: int, rows: int, seed: int = 3, temperature: float = 1.0
) -> list[Completion]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sampler.LOOK_EVERY, "cpu", every)
        return generate(MODEL, prompts, BUDGET, temperature, STOP, seed, rows)


mixes = st.lists(st.sampled_from(PROMPTS), min_size=1, max_size=40)


@settings(deadline=None, max_examples=12)
@given(mixes, st.integers(2, 20), st.sampled_from([1, 3, 8, 16]), st.sampled_from([0.0, 1.0]))
def test_completions_do_not_depend_on_how_often_one_looks(
    mix: list[list[int]], every: int, rows: int, temperature: float
) -> None:
    """To the last bit: the same forwards of as many rows, and what a row writes behind its end is for nobody."""
    seldom, always = (written(mix, looked, rows, temperature=temperature) for looked in (every, 1))
    assert seldom == always
    for prompt, completion in zip(mix, always, strict=True):
        room = min(BUDGET, CONTEXT - len(prompt))
        assert completion.finished == (completion.ids[-1] == STOP) and STOP not in completion.ids[:-1]
        assert len(completion.ids) == room or (completion.finished and len(completion.ids) < room)


def test_the_examples_end_by_the_stop_token_and_by_the_budget() -> None:
    """Else the test above would say little."""
    ends = [completion.finished for completion in written(PROMPTS * 5, 1, 8)]
    assert 5 < sum(ends) < len(ends) - 5


@settings(deadline=None, max_examples=10)
@given(mixes, st.sampled_from([1, 4, 8]), st.sampled_from([2, 16]))
def test_a_replayed_step_writes_the_same(mix: list[list[int]], every: int, rows: int) -> None:
    """Over the same buffers, while new prompts are read into them between two replays."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sampler.CAPTURE, "cpu", Recorded)
        replayed = written(mix, every, rows)
    assert replayed == written(mix, every, rows)


@pytest.mark.parametrize("plant", ["another buffer", "a length on the host"])
def test_a_step_that_is_no_function_of_its_buffers_shows(plant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, pick, expected = Rows._forward, Rows.pick, written(PROMPTS, 1, 4)

    def rebinding(self: Rows, step: int, temperature: float, points_R: Tensor) -> None:
        pick(self, step, temperature, points_R)
        self._ids_R = self._ids_R.clone()

    def counting(self: Rows) -> None:
        longest = int(self.cache.lengths_B.max())
        forward(self)
        self.cache.lengths_B.clamp_(max=longest + 1)

    monkeypatch.setattr(Rows, *(("pick", rebinding) if plant == "another buffer" else ("_forward", counting)))
    assert written(PROMPTS, 1, 4) == expected  # as it is called
    monkeypatch.setitem(sampler.CAPTURE, "cpu", Recorded)
    assert written(PROMPTS, 1, 4) != expected


@pytest.mark.parametrize("capture", [None, Recorded, lambda step: None], ids=["none", "recorded", "cannot be"])
def test_buffers_go_when_nobody_holds_them(capture: Callable[[Callable[[], None]], Any] | None) -> None:
    """And not when Python next looks for cycles: of 512 rows of a billion weights the cache has 4 GB."""
    gc.disable()
    try:
        with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
            rows = Rows(MODEL, 2, 64, 1, capture)
            held = [weakref.ref(rows.cache), weakref.ref(rows._model)]
            for _ in range(3):
                rows.pick(0, 0.0, torch.zeros(2, dtype=torch.float64))
                rows.advance()
        assert rows._model is not MODEL
        del rows
        assert [reference() for reference in held] == [None, None]
    finally:
        gc.enable()


class Waits(TorchFunctionMode):
    """Counts what a host would wait for a device in."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = self.others = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.reads += func is Tensor.cpu
        waits = (Tensor.item, Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__, Tensor.nonzero)
        self.others += func in waits
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("every", [1, 4, 8])
def test_the_device_is_waited_for_once_in_so_many_tokens(every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sampler.LOOK_EVERY, "cpu", every)
    with Waits() as waits:
        generate(MODEL, [[5, 6, 7]] * 4, 24, 1.0, -1, 0, 4)
    assert (waits.reads, waits.others) == (24 / every, 0)


def test_along_the_path_of_a_gpu_the_same_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kernel of it, by Triton's interpreter: prompts read without a mask, attention over the filled slots, picking, one
    cache for all lengths, and a step that cannot be recorded."""
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("a GPU shows it itself")
    prompts = [PROMPTS[place] for place in (1, 3, 0)]

    def answers() -> list[list[Completion]]:
        return [generate(MODEL, prompts, 3, temperature, STOP, 3, 2) for temperature in (0.0, 1.0)]

    expected = answers()
    attended: list[int] = []
    kernel = importlib.import_module("kernels.decode_attention.triton")
    launch = kernel.decode_attention
    monkeypatch.setattr(kernel, "decode_attention", lambda *given: (attended.append(1), launch(*given))[1])
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda tensor: True))
    got = answers()
    monkeypatch.undo()
    assert attended
    for ours, theirs in zip(got, expected, strict=True):
        assert [c.ids for c in ours] == [c.ids for c in theirs]
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(torch.tensor(one.logps), torch.tensor(other.logps), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kv_heads", [1, 4])
@pytest.mark.parametrize("tied", [True, False])
def test_within_autocast_weights_are_cast_once_and_nothing_else_changes(
    tied: bool, kv_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = decided(tied=tied, kv_heads=kv_heads, qkv_bias=True)
    caches: list[torch.dtype] = []
    advance = Rows.advance
    monkeypatch.setattr(
        Rows, "advance", lambda self: (caches.append(self.cache.states[0].keys_BKCE.dtype), advance(self))[1]
    )
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    with torch.autocast("cpu", torch.bfloat16):
        assert dtype_of_pass(model) == torch.bfloat16
        got = generate(model, PROMPTS, BUDGET, 1.0, STOP, 3, 8)
        monkeypatch.setattr(decoding, "cast_once", lambda model, dtype: (model, model.head_weight.to(dtype)))
        assert got == generate(model, PROMPTS, BUDGET, 1.0, STOP, 3, 8)
    assert set(caches) == {torch.bfloat16} and dtype_of_pass(model) == torch.float32
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    # and the model still learns
    model(torch.tensor([PROMPTS[3]])).square().mean().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in model.parameters() if weight.ndim == 2)


@pytest.mark.parametrize("mixer", methods_of(mixers), ids=lambda mixer: mixer.__name__)
def test_a_mixer_whose_products_are_cast_once_writes_as_within_autocast(
    mixer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hyena's filters are made where autocast is off: with weights of another type than their inputs they would fail."""
    assert_casting_once_changes_nothing(stirred(toy_model(seed=3, mixer={"name": mixer().name})), monkeypatch)


@pytest.mark.parametrize("method", methods_of(linears), ids=lambda method: method.__name__)
def test_a_held_model_whose_products_are_cast_once_writes_as_within_autocast(
    method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some compute their matrix in fp32 first: of rounded weights few_bits counts other whole numbers."""
    model = toy_model(seed=3, layers=4)
    model.reparametrize(method())
    with torch.no_grad():
        for place, weight in enumerate(model.parameters()):
            if weight.requires_grad:
                weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(place)) * 0.1)
    assert_casting_once_changes_nothing(model, monkeypatch)


def assert_casting_once_changes_nothing(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit, in ids and log-probabilities."""
    prompts = [[5, 6, 7], [9] * 17, [3]]
    model.eval()
    with torch.autocast("cpu", torch.bfloat16):
        got = generate(model, prompts, 8, 1.0, -1, 3, 4)
        monkeypatch.setattr(decoding, "cast_once", lambda model, dtype: (model, model.head_weight.to(dtype)))
        assert got == generate(model, prompts, 8, 1.0, -1, 3, 4)


def test_what_is_left_of_a_held_layer_in_filters_is_not_cast_either() -> None:
    """A layer that takes another's place is as exact as the module that it stands in says."""
    model = toy_model(mixer={"name": "hyena"})
    filters: Any = next(module for module in model.modules() if isinstance(module, Filters))
    filters.inner = nn.Linear(filters.inner.in_features, filters.inner.out_features)
    assert products_of(filters) == []


def test_of_a_cast_model_only_the_matrices_are_new() -> None:
    model = decided()
    cast, head = cast_once(model, torch.bfloat16)
    assert torch.equal(head, model.head_weight.bfloat16())
    theirs = dict(model.named_parameters())
    for name, weight in cast.named_parameters():
        if name.endswith(("norm.weight", "embedding.weight")):
            assert weight is theirs[name]
        else:
            assert weight.dtype == torch.bfloat16 and torch.equal(weight, theirs[name].bfloat16())
    assert cast.cos_TE is model.cos_TE and cast_once(model, torch.float32)[0] is model


def test_a_sharded_model_is_neither_cast_nor_recorded() -> None:
    """Its weights are there only while its modules are called, by hooks."""
    model = decided()
    handle = model.blocks[0].register_forward_pre_hook(lambda module, given: None)
    assert cast_once(model, torch.bfloat16)[0] is model

    def refused(step: Callable[[], None]) -> Callable[[], None]:
        raise AssertionError

    with torch.inference_mode():
        rows = Rows(model, 2, 64, 1, refused)
        rows.advance()
        handle.remove()
        with pytest.raises(AssertionError):
            Rows(model, 2, 64, 1, refused).advance()


def test_what_cannot_be_recorded_is_no_graph() -> None:
    if torch.cuda.is_available():
        pytest.skip("here it can")

    def step() -> None:
        raise AssertionError("nothing runs while it is recorded")

    assert cuda_graph(step) is None


def test_a_module_with_a_bias_is_cast_whole() -> None:
    model = decided(qkv_bias=True)
    cast, _ = cast_once(model, torch.bfloat16)
    linear = [module for module in cast.modules() if isinstance(module, nn.Linear)]
    assert {weight.dtype for module in linear for weight in module.parameters()} == {torch.bfloat16}
