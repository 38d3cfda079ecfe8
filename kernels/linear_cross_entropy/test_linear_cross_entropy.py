"""The chunked loss, the log-probabilities and their gradients against the plain formulas, on the CPU and through Triton."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.linear_cross_entropy import (
    IGNORED,
    chunks,
    cpu,
    linear_cross_entropy,
    linear_log_probabilities,
    reference,
    triton,
)

SHAPES = [(7, 32, 128), (13, 24, 67), (1, 1, 1), (3, 5, 2), (6, 16, 5003)]  # the second is two chunks of CHUNK tokens
CHUNK = 8  # in place of the hundreds that are quick, which take seconds under the interpreter
VARIANTS = [{}, {"z_loss": 1e-2}, {"softcap": 3.0}, {"softcap": 3.0, "z_loss": 0.3}]
# A sum of up to 700 fp32 terms, each rounded to 6e-8 of itself, in another order; bf16 has 8 bits, so 2^-9 a rounding, and the
# derivative is rounded before two products.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2}


def inputs(shape: tuple[int, int, int], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x_TD, weight_VD, targets_T of which some are ignored, weights_T."""
    T, D, V = shape
    generator = torch.Generator().manual_seed(T + D + V)
    x, weight = torch.randn(T, D, generator=generator), torch.randn(V, D, generator=generator)
    targets = torch.randint(0, V, (T,), generator=generator)
    targets[torch.rand(T, generator=generator) < 0.2] = IGNORED
    return x.to(dtype), weight.to(dtype), targets, torch.rand(T, generator=generator) + 0.1


def expected(x: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, settings: dict[str, float]) -> list[Tensor]:
    """Loss, cross-entropy and the two gradients by the formula, in float64."""
    x, weight = x.double().requires_grad_(), weight.double().requires_grad_()
    counted = weights.double() * (targets != IGNORED)
    denominator = counted.sum() if counted.any() else torch.tensor(1.0)
    loss, cross_entropy = reference.linear_cross_entropy(
        x, weight, targets.clamp(min=0), counted, denominator, settings.get("softcap", 0.0), settings.get("z_loss", 0.0)
    )
    return [loss.detach(), cross_entropy.detach(), *torch.autograd.grad(loss, (x, weight))]


def close(got: Tensor, wanted: Tensor, tolerance: float) -> bool:
    return float((got.double() - wanted).norm()) <= tolerance * (float(wanted.norm()) + 1e-3)


@pytest.fixture(params=["cpu", "triton", "triton, long rows"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, device: torch.device) -> torch.device:
    """Where the inputs go; without a GPU the Triton kernel takes the place of the CPU's, under the interpreter."""
    for made_by in (cpu, triton):
        monkeypatch.setattr(made_by, "chunk_tokens", lambda *_: CHUNK)
    if request.param == "cpu":
        return torch.device("cpu")
    if request.param == "triton, long rows":  # several blocks, as of a row that no program can hold
        monkeypatch.setattr(triton, "ROW", 0)
        monkeypatch.setattr(triton, "BLOCK", 2048)
    if device.type == "cpu":
        monkeypatch.setattr(chunks, "cpu", triton)
    return device


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("shape", "variant"),
    # all or nothing at every shape; one of them at that of two chunks
    [(shape, v) for shape in SHAPES for v in VARIANTS if len(v) != 1 or shape == (13, 24, 67)],
    ids=str,
)
def test_equals_the_formula(
    shape: tuple[int, int, int], variant: dict[str, Any], dtype: torch.dtype, backend: torch.device
) -> None:
    x, weight, targets, weights = inputs(shape, dtype)
    wanted = expected(x, weight, targets, weights, variant)
    x, weight = x.to(backend).requires_grad_(), weight.to(backend).requires_grad_()
    loss, cross_entropy = linear_cross_entropy(x, weight, targets.to(backend), weights_T=weights.to(backend), **variant)
    dx, dweight = torch.autograd.grad(loss, (x, weight))
    for got, value in zip((loss, cross_entropy, dx, dweight), wanted, strict=True):
        assert close(got.detach().cpu(), value, TOLERANCE[dtype])
    assert dx.dtype == dweight.dtype == dtype and not cross_entropy.requires_grad


def test_the_formula_has_the_gradients_it_claims() -> None:
    x, weight, targets, weights = inputs((6, 4, 7), torch.float64)

    def loss(x: Tensor, weight: Tensor) -> Tensor:
        return reference.linear_cross_entropy(
            x, weight, targets.clamp(min=0), weights.double(), torch.tensor(3.0), 2.0, 0.1
        )[0]

    assert torch.autograd.gradcheck(loss, (x.requires_grad_(), weight.requires_grad_()))


def test_equals_torch() -> None:
    x, weight, targets, _ = inputs((300, 16, 517))
    loss, cross_entropy = linear_cross_entropy(x, weight, targets)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(x @ weight.T, targets), rtol=1e-6, atol=0)
    assert torch.equal(loss, cross_entropy)


def test_a_case_by_hand() -> None:
    # Logits (0, ln 3): probabilities 1/4 and 3/4. Target 0: loss ln 4, d/dlogits = (1/4 - 1, 3/4), so dx = sum of that times
    # the rows 0 and ln 3 of the weight, and dweight = that times x = 1.
    x, weight = torch.ones(1, 1, requires_grad=True), torch.tensor([[0.0], [math.log(3)]], requires_grad=True)
    loss, _ = linear_cross_entropy(x, weight, torch.tensor([0]))
    dx, dweight = torch.autograd.grad(loss, (x, weight))
    assert loss.item() == pytest.approx(math.log(4), rel=1e-6)
    assert dx.item() == pytest.approx(0.75 * math.log(3), rel=1e-6)
    assert dweight.flatten().tolist() == pytest.approx([-0.75, 0.75], rel=1e-6)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.integers(1, 40), st.integers(0, 40), st.floats(0.1, 10))
def test_parts_with_the_denominator_of_the_whole_add_up(first: int, rest: int, scale: float) -> None:
    x, weight, targets, weights = inputs((first + rest, 8, 50))
    denominator = weights.sum() * scale
    whole, _ = linear_cross_entropy(x, weight, targets, weights_T=weights, denominator=denominator)
    parts = [
        linear_cross_entropy(x[part], weight, targets[part], weights_T=weights[part], denominator=denominator)[0]
        for part in (slice(0, first), slice(first, None))
    ]
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-5)


def test_each_token_has_its_cross_entropy_and_nothing_else_changes(backend: torch.device) -> None:
    x, weight, targets, weights = (tensor.to(backend) for tensor in inputs((2 * CHUNK + 3, 8, 50)))  # more than a chunk
    x.requires_grad_()
    each = torch.empty(len(x), device=backend)
    with_each = linear_cross_entropy(x, weight, targets, weights_T=weights, each_T=each)
    without = linear_cross_entropy(x, weight, targets, weights_T=weights)
    assert torch.equal(with_each[0], without[0])
    assert torch.equal(*(torch.autograd.grad(loss, x)[0] for loss, _ in (with_each, without)))
    wanted = torch.nn.functional.cross_entropy(x.detach() @ weight.T, targets, reduction="none", ignore_index=IGNORED)
    counted = targets != IGNORED
    assert torch.allclose(each[counted], wanted[counted], rtol=1e-5, atol=1e-5)


def test_logits_far_apart_overflow_nothing(backend: torch.device) -> None:
    # Logits 0 and 1000: the target's probability is exp(-1000), which no float holds; its cross-entropy is 1000.
    x, weight = (
        torch.tensor([[1.0]], device=backend, requires_grad=True),
        torch.tensor([[0.0], [1000.0]], device=backend),
    )
    loss, _ = linear_cross_entropy(x, weight, torch.tensor([0], device=backend))
    assert loss.item() == 1000 and torch.autograd.grad(loss, x)[0].item() == 1000


def test_nothing_that_counts_is_no_loss_and_no_gradient() -> None:
    x, weight, targets, _ = inputs((5, 4, 7))
    loss, _ = linear_cross_entropy(x.requires_grad_(), weight, torch.full_like(targets, IGNORED))
    assert loss.item() == 0 and not torch.autograd.grad(loss, x)[0].any()
    empty, _ = linear_cross_entropy(x[:0], weight, targets[:0])
    assert empty.item() == 0


def test_only_wanted_gradients_are_made_and_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, targets, _ = inputs((5, 4, 7))
    products: list[Any] = []
    monkeypatch.setattr(cpu, "add_product_", lambda *given: products.append(given))
    with torch.no_grad():
        assert not linear_cross_entropy(x, weight.requires_grad_(), targets)[0].requires_grad
    loss, _ = linear_cross_entropy(x.requires_grad_(), weight.detach(), targets)
    assert products == []
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="compute the loss again"):
        loss.backward()


def test_autocast_computes_in_its_dtype_and_keeps_the_weight_in_fp32() -> None:
    x, weight, targets, weights = inputs((300, 16, 517))
    wanted = expected(x, weight, targets, weights, {})
    x, weight = x.requires_grad_(), weight.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = linear_cross_entropy(x, weight, targets, weights_T=weights)
    dx, dweight = torch.autograd.grad(loss, (x, weight))
    assert loss.dtype == dx.dtype == dweight.dtype == torch.float32
    assert close(dweight, wanted[3], TOLERANCE[torch.bfloat16])
    assert not close(dweight, wanted[3], TOLERANCE[torch.float32])  # so bf16 it was


def test_chunks_of_a_cpu_stay_below_their_bytes_and_an_eighth() -> None:
    assert cpu.chunk_tokens(4096, 32768, 4) == 512
    assert cpu.chunk_tokens(2048, 8192, 4) == 256
    assert cpu.chunk_tokens(2**20, 2**18, 4) == 64
    assert cpu.chunk_tokens(10, 2**40, 4) == 1


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.integers(0, 2**20), st.integers(1, 2**18), st.sampled_from([2, 4]))
def test_chunks_of_a_gpu_are_as_few_as_their_bytes_allow_and_alike(tokens: int, vocabulary: int, entry: int) -> None:
    chunk = triton.chunk_tokens(tokens, vocabulary, entry)
    assert chunk * vocabulary * entry <= triton.CHUNK_BYTES and chunk >= 1
    sizes = [min(chunk, tokens - start) for start in range(0, tokens, chunk)]
    assert len(sizes) == -(-tokens // (triton.CHUNK_BYTES // (vocabulary * entry)))
    assert not sizes or sizes[0] - sizes[-1] < len(sizes)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_one_chunk_or_many_are_one_loss(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    """A GPU's path, whose chunks depend on their bytes alone; with a sum in fp32, and in bf16 where that is too large."""
    if device.type == "cpu":
        monkeypatch.setattr(chunks, "cpu", triton)
    x, weight, targets, weights = inputs((24, 16, 67), dtype)
    wanted = expected(x, weight, targets, weights, {})
    x, weight = x.to(device).requires_grad_(), weight.to(device).requires_grad_()
    for most, sums in ((24, 2**29), (8, 2**29), (5, 2**29), (8, 1)):
        monkeypatch.setattr(triton, "CHUNK_BYTES", most * 67 * dtype.itemsize)
        monkeypatch.setattr(triton, "SUM_BYTES", sums)
        loss, _ = linear_cross_entropy(x, weight, targets.to(device), weights_T=weights.to(device))
        for got, value in zip((loss, *torch.autograd.grad(loss, (x, weight))), (wanted[0], *wanted[2:]), strict=True):
            assert close(got.detach().cpu(), value, TOLERANCE[dtype])


def test_products_of_bf16_are_summed_unrounded(device: torch.device) -> None:
    """257 + 1 + 1, of which bf16 would make 256 or 258, for the first product alone."""
    total = torch.zeros(1, 1, device=device)
    for left, right in (([256.0, 1.0], [1.0, 1.0]), ([1.0], [1.0]), ([1.0], [1.0])):
        factors = (torch.tensor(factor, device=device, dtype=torch.bfloat16) for factor in (left, right))
        left_VC, right_CD = next(factors)[None], next(factors)[:, None]
        triton.add_product_(total, left_VC, right_CD)
    assert total.item() == 259


def test_a_sum_is_fp32_where_the_weight_is_or_where_it_is_small() -> None:
    half, single = torch.bfloat16, torch.float32

    def of(rows: int, dtype: torch.dtype) -> torch.dtype:
        return triton.sum_dtype(torch.empty(rows, 2**13, dtype=dtype, device="meta"), half)

    assert [of(2**14, half), of(2**14 + 1, half), of(2**17, single)] == [single, half, single]


LOG_PROBABILITIES = [(shape, *terms) for shape in SHAPES for terms in ((1.0, 0.0), (0.7, 0.0), (0.7, 1.5))]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("shape", "temperature", "softcap"), LOG_PROBABILITIES, ids=str)
def test_log_probabilities_equal_the_formula(
    shape: tuple[int, int, int], temperature: float, softcap: float, dtype: torch.dtype, backend: torch.device
) -> None:
    x, weight, _, slopes = inputs(shape, dtype)
    weight /= (
        shape[1] ** 0.5
    )  # logits of about 1: fp32 has few digits of the gradient of a token that is all but certain
    targets = torch.randint(0, shape[2], shape[:1], generator=torch.Generator().manual_seed(1))
    exact = x.double().requires_grad_(), weight.double().requires_grad_()
    wanted = reference.linear_log_probabilities(*exact, targets, temperature, softcap)
    wanted_grads = torch.autograd.grad(wanted, exact, slopes.double())
    x, weight = x.to(backend).requires_grad_(), weight.to(backend).requires_grad_()
    logps = linear_log_probabilities(x, weight, targets.to(backend), temperature=temperature, softcap=softcap)
    grads = torch.autograd.grad(logps, (x, weight), slopes.to(backend), retain_graph=True)
    again = torch.autograd.grad(logps, (x, weight), slopes.to(backend))
    assert logps.dtype == torch.float32 and all(torch.equal(a, b) for a, b in zip(grads, again, strict=True))
    for got, value in zip((logps.detach(), *grads), (wanted.detach(), *wanted_grads), strict=True):
        assert close(got.cpu(), value, TOLERANCE[dtype])


def test_log_probabilities_of_nothing_and_without_gradients() -> None:
    x, weight, targets, _ = inputs((5, 4, 7))
    nothing = linear_log_probabilities(x[:0].requires_grad_(), weight.requires_grad_(), targets[:0])
    assert nothing.shape == (0,) and not torch.autograd.grad(nothing.sum(), weight)[0].any()
    with torch.no_grad():
        assert not linear_log_probabilities(x, weight, targets.clamp(min=0)).requires_grad
    with pytest.raises(ValueError, match="targets of shape"):
        linear_log_probabilities(x, weight, targets[:3])


def test_log_probabilities_under_autocast_are_products_of_bf16_of_a_weight_in_fp32() -> None:
    x, weight, _, slopes = inputs((300, 16, 517))
    targets = torch.arange(300)
    exact = x.double().requires_grad_(), weight.double().requires_grad_()
    wanted = reference.linear_log_probabilities(*exact, targets, 1.0)
    wanted_x, wanted_weight = torch.autograd.grad(wanted, exact, slopes.double())
    x, weight = x.requires_grad_(), weight.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        logps = linear_log_probabilities(x, weight, targets)
    dx, dweight = torch.autograd.grad(logps, (x, weight), slopes)
    assert logps.dtype == dx.dtype == dweight.dtype == torch.float32
    assert close(dx, wanted_x, TOLERANCE[torch.bfloat16]) and close(dweight, wanted_weight, TOLERANCE[torch.bfloat16])
    assert not close(dweight, wanted_weight, TOLERANCE[torch.float32])  # so bf16 it was


@pytest.mark.parametrize(
    ("x", "weight", "targets", "message"),
    [
        ((5, 4), (7, 3), (5,), r"\(4,\) wide, rows of the weight \(3,\)"),
        ((5, 4), (7, 4), (6,), r"targets of shape \(6,\) for 5 tokens"),
        ((2, 5, 4), (7, 4), (2, 5), r"wide"),
    ],
)
def test_shapes_that_do_not_fit(
    x: tuple[int, ...], weight: tuple[int, ...], targets: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        linear_cross_entropy(torch.zeros(x), torch.zeros(weight), torch.zeros(targets, dtype=torch.int64))
