"""Compiled, every kernel that has gradients gives those that it gives uncompiled, as one graph; and so do the Triton ones, as
far as a machine without a GPU can say.

Gradients are compared, since a loss may fall without them: torch 2.11 compiles gradients of zero through an autograd.Function
whose result was written in place.
"""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kernels.add_norm import add_norm
from kernels.attention import attention
from kernels.linear_cross_entropy import linear_cross_entropy
from kernels.norm_rope import norm_rotate
from kernels.projections import fused_projections
from kernels.rms_norm import rms_norm
from kernels.rope import rotate
from kernels.swiglu import swiglu

EPS = 1e-6
COS, SIN = torch.randn(6, 4).cos(), torch.randn(6, 4).sin()
TARGETS = torch.arange(6)


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).requires_grad_()


# what is computed, and what gets gradients
CASES: dict[str, tuple[Callable[..., Tensor | tuple[Tensor, ...]], list[Tensor]]] = {
    "rms_norm": (lambda x, w: rms_norm(x, w, EPS), [numbers(2, 6, 8), numbers(8)]),
    "rms_norm to bf16": (lambda x, w: rms_norm(x, w, EPS, torch.bfloat16), [numbers(2, 6, 8), numbers(8)]),
    "add_norm": (lambda x, more, w: add_norm(x, more, w, EPS), [numbers(2, 6, 8), numbers(2, 8, 6).mT, numbers(8)]),
    "rotate": (lambda x: rotate(x, COS, SIN), [numbers(2, 3, 6, 8)]),
    "norm_rotate": (lambda x, w: norm_rotate(x, w, COS, SIN, EPS), [numbers(2, 6, 3, 8), numbers(8)]),
    "swiglu": (swiglu, [numbers(5, 8), numbers(8, 5).T]),
    "attention": (lambda q, k, v: attention(q, k, v, None), [numbers(2, 6, 4, 8), numbers(2, 6, 2, 8), numbers(2, 6, 2, 8)]),
    "projections": (
        lambda x, a, b: fused_projections(x, [a, b], [None, None]), [numbers(2, 6, 8), numbers(4, 8), numbers(3, 8)]
    ),
    "linear_cross_entropy": (lambda x, w: linear_cross_entropy(x, w, TARGETS)[0], [numbers(6, 8), numbers(9, 8)]),
}  # fmt: skip
# Not one graph: its forward makes the gradients and hands them over beside the graph
BROKEN = {"linear_cross_entropy"}


def gradients(op: Callable[..., Tensor | tuple[Tensor, ...]], inputs: list[Tensor]) -> list[Tensor]:
    results = op(*inputs)
    results = results if isinstance(results, tuple) else (results,)
    grads = [torch.linspace(-1, 1, result.numel()).view(result.shape).to(result.dtype) for result in results]
    if results[0].ndim == 0:
        grads = [torch.ones(())]
    return list(torch.autograd.grad(results, inputs, grads))


@pytest.mark.parametrize("name", CASES)
def test_compiled_gradients_are_those_of_eager(name: str) -> None:
    op, inputs = CASES[name]
    torch._dynamo.reset()
    compiled = torch.compile(op, backend="aot_eager", fullgraph=name not in BROKEN)
    for got, wanted in zip(gradients(compiled, inputs), gradients(op, inputs), strict=True):
        assert wanted.abs().max() > 1e-3  # so that zeros would be seen
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


def test_products_are_not_added_to_copies() -> None:
    """What the compiler makes of an addmm in place copies what is added to; the operator keeps it from that."""
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    op, inputs = CASES["projections"]
    torch._dynamo.reset()
    gradients(torch.compile(op, backend=aot_autograd(fw_compiler=keep, bw_compiler=keep)), inputs)
    called = [str(node.target) for graph in graphs for node in graph.graph.nodes]
    assert called.count("tokenmill.summed_products.default") == 1 and not any("addmm" in name for name in called)


TRACE = """
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from lm.block import Block
from lm.model import Decoder, ModelConfig

graphs = []
def backend(graph, inputs):
    graphs.append(graph)
    def run(*given):  # kernels are not launched: on fake tensors they have shapes alone
        with FakeTensorMode(allow_non_fake_inputs=True):
            found = graph(*[torch.empty_like(x) if isinstance(x, torch.Tensor) else x for x in given])
        # with a gradient, as what a block gives in training: whether an input has one decides its graph
        made = {"requires_grad": True}
        return tuple(torch.zeros(x.shape, dtype=x.dtype, **made) if isinstance(x, torch.Tensor) else x for x in found)
    return run

shape = ModelConfig(vocab_size=5, width=16, layers=2, heads=2, kv_heads=1, ffn_width=24, context=8)
models = {qk_norm: Decoder(shape.model_copy(update={"qk_norm": qk_norm}), 0) for qk_norm in (True, False)}
torch.Tensor.is_cuda = property(lambda tensor: True)
for qk_norm, model in models.items():
    torch._dynamo.reset()
    graphs.clear()
    compiled = torch.compile(Block.__call__, backend=backend, fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16):
        x, waiting, contexts = model.begin_pass(torch.zeros(2, 8, dtype=torch.int64), None, None)
        for block, context in zip(model.blocks, contexts):
            x, waiting, _ = compiled(block, x, waiting, context)
    print("qk_norm", qk_norm, "graphs", len(graphs))
"""


def test_a_gpus_block_is_one_graph_with_norms_of_queries_and_without() -> None:
    """Traced in a process that has no interpreter of Triton: Dynamo traces the launches themselves."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", TRACE], env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["qk_norm True graphs 1", "qk_norm False graphs 1"], done.stderr
