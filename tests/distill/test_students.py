"""Students: the parts of a teacher that they begin with, by hand and without a trace of what is idle, and models of their own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lm.calibration import Batch
from lm.checkpoint import save_model
from lm.config import ConfigError, methods_of
from lm.cutting.stream import by_activation, by_magnitude, with_channels
from lm.feed_forwards import Experts, ReluSquared
from lm.hugging_face.export import save_hf
from lm.mixers import Hyena, MinimalRNN, TTTLinear
from lm.model import Decoder
from tasks.about.sections import Sections
from tasks.core.log import Log
from tasks.distill import students
from tasks.distill.compose import composed
from tasks.distill.contracts import contracts
from tasks.distill.needs import shape
from tasks.distill.stage import run
from tasks.distill.students import Given, Sliced
from tasks.distill.students.base import StudentInputs
from tests.distill.test_stage import config, decided, prepared, trained
from tests.lm.models import toy_model, toy_tokenizer
from tests.project import TINY

SHAPES: dict[str, dict[str, Any]] = {
    "grouped": {"heads": 4, "kv_heads": 2},
    "each its own": {"heads": 4, "kv_heads": 4, "tied": False},
    "one": {"heads": 4, "kv_heads": 1, "qkv_bias": True, "qk_norm": True},
    "wide heads": {"heads": 4, "kv_heads": 2, "head_width": 12},
    "two layers of a kind": {"heads": 4, "kv_heads": 2, "feed_forward": ReluSquared()},
}
BY = ("activation", "magnitude", "evenly")
METHODS = [method for method in methods_of(students) if method.__name__ not in ("Given", "Layers")]


def teacher(**changes: Any) -> Decoder:
    """Layers that count, of a stream whose channels are told apart."""
    model = toy_model(seed=5, **{"layers": 3, **changes})
    with torch.no_grad():
        for weight in model.blocks.parameters():
            weight.mul_(6 if weight.ndim == 2 else 1)
    return model


def batches() -> list[Batch]:
    ids = torch.randint(5, 200, (3, 20), generator=torch.Generator().manual_seed(0))
    return [(ids, torch.ones(3, 20, dtype=torch.bool))]


def beside(folder: Path = Path("nowhere")) -> StudentInputs:
    return StudentInputs(folder, toy_tokenizer(), batches)


@torch.no_grad()
def logits(model: Decoder) -> Tensor:
    return model(batches()[0][0])


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_a_student_has_the_shape_that_is_forecast_and_weights_of_its_own(method: Any) -> None:
    big = teacher()
    kept = {name: weight.clone() for name, weight in big.state_dict().items()}
    student = method().build(big, 0, beside())
    assert student.config == method().shape(big.config)
    assert all(weight.requires_grad for weight in student.parameters())
    with torch.no_grad():
        for weight in student.parameters():
            weight.zero_()
    assert all(torch.equal(weight, kept[name]) for name, weight in big.state_dict().items())


@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_slice_of_all_there_is_is_the_teacher(shape: str, by: Any) -> None:
    big = teacher(**SHAPES[shape])
    sizes = {"layers": 3, "width": 32, "heads": 4, "ffn_width": 48}
    student = Sliced(by=by, **sizes).build(big, 0, beside())
    assert student.config == big.config == Sliced(by=by, **sizes).shape(big.config)
    assert torch.equal(logits(student), logits(big))


@pytest.mark.parametrize("by", ["activation", "magnitude"])
@pytest.mark.parametrize("shape", SHAPES)
def test_channels_of_the_stream_that_are_idle_go_without_a_trace(shape: str, by: Any) -> None:
    """Every fourth channel is 0 everywhere and read by nobody. The norm is over fewer channels then, whose squares have the same
    sum: its weights are made larger here, as the mean becomes larger."""
    big = teacher(**SHAPES[shape], norm_eps=1e-12)
    with torch.no_grad():
        for name, weight in big.named_parameters():
            if name.endswith(("output.weight", "down.weight")):
                weight[::4] = 0
            elif weight.ndim == 2 and weight.shape[1] == 32:
                weight[:, ::4] = 0
            elif name.endswith(("attention_norm.weight", "ffn_norm.weight")):
                weight[::4] = 0
        student = Sliced(width=24, by=by).build(big, 0, beside())
        assert student.config.width == 24 and student.config.head_dim == big.config.head_dim
        for name, weight in student.named_parameters():
            if "norm" in name and "query" not in name and "key" not in name:
                weight.mul_((32 / 24) ** 0.5)
    # sums of 24 terms in another order, through three layers
    torch.testing.assert_close(logits(student), logits(big), rtol=1e-3, atol=1e-4)


def test_channels_by_hand() -> None:
    """Evenly: the first, the last and between them; by magnitude the columns that are the largest."""
    big = teacher(layers=1)
    evenly = Sliced(width=4, by="evenly").build(big, 0, beside())
    places = [0, 10, 21, 31]
    assert torch.equal(evenly.embedding.weight, big.embedding.weight[:, places])
    assert torch.equal(evenly.blocks[0].attention.query.weight, big.blocks[0].attention.query.weight[:, places])
    assert torch.equal(evenly.blocks[0].ffn.down.weight, big.blocks[0].ffn.down.weight[places])
    with torch.no_grad():
        for weight in (*big.blocks.parameters(), big.embedding.weight):
            if weight.ndim == 2 and weight.shape[1] == 32:
                weight[:, [3, 17]] += 40
    found = Sliced(width=2, by="magnitude").build(big, 0, beside())
    assert torch.equal(found.embedding.weight, big.embedding.weight[:, [3, 17]])
    readers = ("query", "key", "value", "gate", "up", "embedding")
    named = [weight.detach() for name, weight in big.named_parameters() if name.split(".")[-2] in readers]
    wanted = sum(float(weight.double()[:, 3].square().sum()) for weight in named)
    assert by_magnitude(big)[3] == pytest.approx(wanted**0.5)


@torch.no_grad()
def test_activation_is_what_norms_give_in_the_mean() -> None:
    big = teacher(layers=2)
    seen: list[Tensor] = []
    for block in big.blocks:
        for norm in (block.attention_norm, block.ffn_norm):
            norm.register_forward_hook(
                lambda _, inputs, made: seen.append(made[1].double().abs().flatten(0, 1).mean(0))
            )
    big(batches()[0][0])
    wanted = torch.stack(seen).sum(0).tolist()
    assert by_activation(big, batches()) == pytest.approx(wanted, rel=1e-6)


def test_heads_and_channels_that_are_spaced_evenly() -> None:
    big = teacher(heads=8, kv_heads=2, layers=1)
    found = Sliced(heads=4, ffn_width=3, by="evenly").build(big, 0, beside())
    rows = torch.cat([torch.arange(4 * head, 4 * head + 4) for head in (0, 3, 4, 7)])  # two of each key head's four
    assert torch.equal(found.blocks[0].attention.query.weight, big.blocks[0].attention.query.weight[rows])
    assert torch.equal(found.blocks[0].ffn.up.weight, big.blocks[0].ffn.up.weight[[0, 24, 47]])


def test_what_a_slice_cannot_be() -> None:
    big = teacher()
    for name, there in (("layers", 3), ("width", 32), ("heads", 4), ("ffn_width", 48)):
        with pytest.raises(
            ConfigError, match=rf"distill.student.{name}: 64 is more than the teacher's {there}; lower it"
        ):
            Sliced(**{name: 64}).build(big, 0, beside())
    with pytest.raises(ConfigError, match=r"distill.student.heads: 3 is no multiple of the model's kv_heads, 2"):
        Sliced(heads=3).build(big, 0, beside())
    odd = toy_model(feed_forward=Experts())
    with pytest.raises(
        ConfigError, match=r"distill.student: channels of this model's stream cannot be told apart in blocks.0"
    ):
        with_channels(odd, [0, 1], "distill.student")


ODD: list[dict[str, Any]] = [
    {"feed_forward": Experts()}, {"mixer": MinimalRNN()}, {"mixer": Hyena()}, {"mixer": TTTLinear()},
]  # fmt: skip


@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("shape", ODD, ids=repr)
@pytest.mark.parametrize("size", [{"width": 16}, {"heads": 2}], ids=repr)
def test_layers_that_are_not_told_apart_are_said_before_anything_is_measured(
    size: dict[str, int], shape: dict[str, Any], by: Any
) -> None:
    def measured() -> list[Batch]:
        raise AssertionError("measured")

    with pytest.raises(ConfigError, match=r"^distill\.student: .* of this model's .* cannot be told apart.* blocks\.0"):
        Sliced(by=by, **size).build(toy_model(**shape), 0, StudentInputs(Path("nowhere"), toy_tokenizer(), measured))


def test_a_student_of_its_own_is_of_either_format_and_learns(tmp_path: Path) -> None:
    own = {"student": Given(model="prune"), "learner": "prune"}
    found = []
    for number, save in enumerate((save_model, lambda at, *what: save_hf(*what, at, torch.float32))):
        data = prepared(tmp_path / str(number))
        (data / "prune").mkdir()
        model = toy_model(seed=8, layers=1)
        save(data / "prune", model, toy_tokenizer())
        figures = run(config(**own), data, Log())
        assert figures["parameters"] == model.num_parameters()
        found.append((data / "distill/model.safetensors").read_bytes())
    assert found[0] == found[1]
    assert trained(tmp_path / "teacher", config(student=Given(model="rl"), learner="rl"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"context": 16}, r"distill.student: prune reads 16 tokens, the model that is distilled 48"),
        ({"vocab_size": 270}, r"distill.student: prune has rows for 270 tokens, the model that is distilled for 261"),
    ],
)
def test_a_model_that_does_not_fit_is_said(tmp_path: Path, changes: dict[str, int], words: str) -> None:
    save_model(tmp_path, toy_model(**changes), toy_tokenizer())
    with pytest.raises(ConfigError, match=words):
        Given(model="prune").build(decided(2), 0, beside(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(ConfigError, match=r"distill.student: .*model.safetensors: cannot be read"):
        Given(model="prune").build(decided(2), 0, beside(tmp_path))


def test_params_name_what_the_student_and_the_teachers_are_read_from() -> None:
    section = {"model": "rl", "student": {"name": "layers", "layers": 1}}
    assert composed(section) == {**section, "beside": "teachers", "learner": "rl"}
    given = {**section, "student": {"name": "given", "model": "prune"}, "teachers": {"name": "stored"}}
    assert composed(given) == {**given, "beside": "lessons", "learner": "prune"}
    assert composed({**section, "student": {"name": "given"}})["learner"] == "checkpoint"
    own = {"student": {"name": "given", "model": "sft"}, "learner": "sft"}
    found = Sections({**TINY, "distill": {**TINY["distill"], **own}})
    assert shape(found) == found.shape("sft") and list(contracts(found)) == []
    whole = Sections({**TINY, "distill": {**TINY["distill"], "student": {"name": "sliced"}}})
    (finding,) = contracts(whole)
    assert "nothing is learned" in finding.what
