"""Training on a device: the same bits again, and after a stop; parts, recomputation and ranks change what they may."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from lm import averages, optimizers
from lm.config import methods_of
from lm.optimizers import AdamW, Muon
from lm.training import parallel
from lm.training.loop import train
from tasks.core.log import Stopped
from tests.gpu.models import Recorder, batches, fit, model_on, recipe, relative


@pytest.mark.parametrize("method", methods_of(optimizers), ids=lambda method: method.model_fields["name"].default)
def test_two_runs_and_a_resumed_one_end_in_the_same_bits(device: torch.device, method: Any, tmp_path: Path) -> None:
    how = recipe(method, precision="bf16", average=averages.Ema())
    whole, again = (fit(device, how, Recorder(tmp_path / name)) for name in ("whole", "again"))
    with pytest.raises(Stopped):
        fit(device, how, Recorder(tmp_path / "cut", stop_after=3))
    resumed = fit(device, how, Recorder(tmp_path / "cut"))
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_checkpoint_has_the_bits_of_the_device(device: torch.device, tmp_path: Path) -> None:
    model = model_on(device)
    with pytest.raises(Stopped):
        train(model, recipe(precision="bf16"), 6, batches(model), Recorder(tmp_path, stop_after=3))
    [path] = tmp_path.rglob("*.safetensors")
    saved = load_file(path)
    for name, weight in model.state_dict().items():
        assert torch.equal(saved[f"model.{name}"], weight.cpu())


def test_shards_and_parts_change_little(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit(device, recipe(Muon), Recorder())
    monkeypatch.setenv("TOKENMILL_POSITIONS", "32")  # a row at a time
    for shards in (1, 4):
        parts = fit(device, recipe(Muon, shards=shards), Recorder())
        # Muon makes all directions of a small gradient alike, those of rounding too
        assert all(
            torch.nn.functional.cosine_similarity(parts[n].flatten(), w.flatten(), 0) > 0.9999 for n, w in whole.items()
        )


def test_recomputed_activations_change_nothing(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENMILL_POSITIONS", "32")
    plain = fit(device, recipe(precision="bf16"), Recorder())
    monkeypatch.setenv("TOKENMILL_POSITIONS", "0")
    again = fit(device, recipe(precision="bf16"), Recorder())
    assert all(torch.equal(plain[name], again[name]) for name in plain)


@pytest.fixture
def group(device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One rank: all that a single GPU can show of DDP and FSDP2 is that they run and give what one process gives."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("method", [AdamW, Muon], ids=lambda method: method.__name__)
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_one_rank_of_ddp_and_fsdp_trains_as_exact_does(
    device: torch.device, group: None, kind: str, method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = fit(device, recipe(method, precision="bf16"), Recorder(), steps=3)
    used: list[Any] = []

    def make_parallel(how: Any) -> Any:
        """Of this kind, which else takes more than one rank."""
        with monkeypatch.context() as two:
            two.setenv("TOKENMILL_PARALLEL", kind)
            two.setattr("lm.training.parallel.world_size", lambda: 2)
            used.append(parallel.make_parallel(how))
        return used[-1]

    monkeypatch.setattr("lm.training.loop.make_parallel", make_parallel)
    other = fit(device, recipe(method, precision="bf16"), Recorder(), steps=3)
    assert [type(one).__name__ for one in used] == [kind.upper()]
    # bf16 rounds what lies a last bit apart in fp32
    assert all(relative(other[name], wanted) < 1e-3 for name, wanted in exact.items())
