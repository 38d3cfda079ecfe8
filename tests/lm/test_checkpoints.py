"""Checkpoints: to the bit, whole or not taken for whole, and never all lost, whatever ends the process or fills the disk."""

import errno
import multiprocessing
import random
import resource
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from signal import SIGKILL

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from lm import averages, optimizers
from lm.averages import Last
from lm.config import Config, methods_of
from lm.optimizers import AdamW, Lamb, Muon
from lm.training.average import RunningAverage
from lm.training.checkpoint.checkpoints import Checkpoints
from lm.training.checkpoint.file import Torn, read, write
from lm.training.checkpoint.snapshot import Snapshot
from lm.training.checkpoint.state import Run, tensors_of
from lm.training.execution import Execution
from lm.training.guard import Guard
from lm.training.parallel.exact import Exact
from tests.lm.models import toy_model
from tests.small_disk import small_disk

ADAMW, LAST = AdamW(), Last()


def new_run(optimizer: Config = ADAMW, average: Config = LAST, seed: int = 0, **shape: object) -> Run:
    parallel = Exact(1)
    parallel.distribute(toy_model(seed, **shape), optimizer)
    return Run(parallel, RunningAverage(average), Guard(0.0, 0.0), Execution())


def trained(*methods: Config, **shape: object) -> Run:
    """A run after two updates of two, so that every kind of state has begun."""
    parallel, average, guard, *_ = run = new_run(*methods, **shape)
    model, optimizer = parallel.model, parallel.optimizer
    for step in range(2):
        optimizer.begin(step)
        generator = torch.Generator().manual_seed(step)
        for weight in model.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.grad = noise if weight.requires_grad else None
        optimizer.step()
        average.after(step, 2, parallel.local_parameters())
        guard.accept(step, 3.0 - step, 1.0)
    return run


def copied(run: Run) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors_of(run).items()}


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """The same names, dtypes, shapes and bits."""
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert (
            found[name].contiguous().flatten().view(torch.uint8).equal(tensor.contiguous().flatten().view(torch.uint8))
        )


def saved(folder: Path, run: Run, *steps: int, **settings: int) -> list[Path]:
    checkpoints = Checkpoints(folder, **settings)
    for step in steps:
        checkpoints.save(step, run)
    checkpoints.close()
    return sorted(folder.iterdir())


METHODS = [(optimizer(), Last()) for optimizer in methods_of(optimizers)] + [
    (AdamW(), m()) for m in methods_of(averages)
]


@pytest.mark.parametrize("methods", METHODS, ids=lambda pair: "-".join(method.name for method in pair))
def test_a_run_comes_back_to_the_bit(methods: tuple[Config, Config], tmp_path: Path) -> None:
    run = trained(*methods)
    (path,) = saved(tmp_path / "first", run, 340)
    assert path.name == "step-00000340.safetensors"
    assert_same(load_file(path), copied(run))
    again = new_run(*methods, seed=1)
    assert Checkpoints(tmp_path / "first").load(again) == 340
    assert_same(copied(again), copied(run))
    assert saved(tmp_path / "second", again, 340)[0].read_bytes() == path.read_bytes()


def test_every_kind_of_tensor_is_readable_by_safetensors(tmp_path: Path) -> None:
    tied = torch.arange(6.0).view(2, 3)
    tensors = {
        "bytes": torch.arange(3, dtype=torch.uint8),  # an odd number of bytes before what must be aligned
        "bits": torch.tensor([True, False, True]),
        "half": torch.randn(5).bfloat16(),
        "eighth": torch.randn(7).to(torch.float8_e4m3fn),
        "double": torch.randn(3, dtype=torch.float64),
        "complex": torch.randn(3, dtype=torch.complex64),
        "scalar": torch.tensor(41),
        "empty": torch.empty(0, 4, dtype=torch.float16),
        "turned": torch.arange(12.0).view(3, 4).T,
        "tied": tied,
        "tied_too": tied,
        "name with \"quotes\" and \\": torch.ones(1),
    }  # fmt: skip
    entries, data = Snapshot().take(tensors)
    write(tmp_path / "step-1.safetensors", entries, data, {"step": "1"})
    assert_same(load_file(tmp_path / "step-1.safetensors"), tensors)
    head = (tmp_path / "step-1.safetensors").read_bytes()
    assert (8 + int.from_bytes(head[:8], "little")) % 64 == 0
    for name, tensor in tensors.items():
        assert entries[name]["data_offsets"][0] % tensor.element_size() == 0


def test_a_dtype_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="odd is torch.complex128"):
        Snapshot().take({"odd": torch.ones(1, dtype=torch.complex128)})


def test_a_snapshot_may_grow_and_shrink(tmp_path: Path) -> None:
    snapshot = Snapshot()
    for size in (3, 500, 2, 0):
        entries, data = snapshot.take({"x": torch.full((size,), float(size))})
        write(tmp_path / "step-1.safetensors", entries, data, {"step": "1"})
        assert load_file(tmp_path / "step-1.safetensors")["x"].tolist() == [size] * size


def test_what_training_does_after_save_does_not_reach_the_file(tmp_path: Path) -> None:
    run, checkpoints, go_on = trained(), Checkpoints(tmp_path), threading.Event()
    before = copied(run)
    checkpoints._writer.submit(go_on.wait)  # the disk is slow
    checkpoints.save(2, run)
    assert not list(tmp_path.iterdir()), "save waited for the disk"
    for tensor in tensors_of(run).values():
        tensor.detach().fill_(7)
    go_on.set()
    checkpoints.close()
    assert_same(load_file(tmp_path / "step-00000002.safetensors"), before)


def test_cut_anywhere_the_one_before_is_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained()
    older, newer = saved(tmp_path, run, 1, 2)
    whole = newer.read_bytes()
    for cut in [0, 1, 7, 8, 9, 100, *random.Random(0).sample(range(len(whole)), 14), len(whole) - 1]:
        newer.write_bytes(whole[:cut])
        fresh = new_run(seed=1)
        assert Checkpoints(tmp_path).load(fresh) == 1
        assert_same(copied(fresh), copied(run))
        said = capsys.readouterr().err
        assert said.startswith(f"{newer}: ") and said.count("\n") == 1 and "going on from step 1" in said
        assert not newer.exists() and newer.with_suffix(".torn").read_bytes() == whole[:cut]
    assert older.exists()


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (path,) = saved(tmp_path_factory.mktemp("small"), trained(vocab_size=8, width=8, layers=1, ffn_width=8), 3)
    return path


@settings(deadline=None, max_examples=300, derandomize=True)
@given(data=st.data())
def test_one_flipped_bit_is_noticed(small_file: Path, data: st.DataObject) -> None:
    content = bytearray(small_file.read_bytes())
    head = 8 + int.from_bytes(content[:8], "little")
    # half of the flips in the header, which is a small part of the file
    place = data.draw(st.integers(0, head - 1) | st.integers(head, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    flipped = small_file.with_name("flipped")
    flipped.write_bytes(content)
    with pytest.raises(Torn):
        read(flipped)


def test_none_whole_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    for path in saved(tmp_path, trained(), 1, 2):
        path.write_bytes(path.read_bytes()[:-1])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(
        ValueError, match=rf"{tmp_path}/step-00000002.safetensors: not a whole .*delete the folder {tmp_path}"
    ):
        Checkpoints(tmp_path).load(new_run())
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


FOREIGN = {
    "vocabulary": (AdamW(), {"vocab_size": 300}, r"model.embedding.weight is float32 \(261, 32\) there and float32 \(300, 32\) here"),
    "shape": (AdamW(), {"ffn_width": 40}, r"model.blocks.0.ffn.gate.weight is float32 \(48, 32\) there and float32 \(40, 32\) here"),
    "too few": (AdamW(), {"layers": 3}, r"it has no model.blocks.2.attention_norm.weight, here float32 \(32,\)"),
    "too many": (AdamW(), {"layers": 1}, r"it has model.blocks.1\S+, float32 \(16, 32\), which is not here"),
    "other slots": (Muon(), {}, r"it has no optimizer.momentum.blocks.0.attention.query.weight, here float32 \(32, 32\)"),
    "same slots": (Lamb(), {}, "it is of AdamWOptimizer, here LambOptimizer"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FOREIGN)
def test_the_checkpoint_of_another_run_is_refused(kind: str, tmp_path: Path) -> None:
    optimizer, shape, reason = FOREIGN[kind]
    run = new_run(optimizer, **shape)
    (path,) = saved(tmp_path, trained(), 3)
    before, bytes_before = copied(run), path.read_bytes()
    with pytest.raises(
        ValueError, match=f"{path}: a checkpoint of another run: {reason}; delete the folder {tmp_path} to"
    ):
        Checkpoints(tmp_path).load(run)
    assert_same(copied(run), before)
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == bytes_before


def test_another_dtype_is_refused(tmp_path: Path) -> None:
    (path,) = saved(tmp_path, trained(), 3)
    parallel = Exact(1)
    parallel.distribute(toy_model().bfloat16(), ADAMW)
    run = Run(parallel, RunningAverage(LAST), Guard(0.0, 0.0), Execution())
    with pytest.raises(ValueError, match=r"weight is float32 \(261, 32\) there and bfloat16 \(261, 32\) here"):
        Checkpoints(tmp_path).load(run)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "step-00000009.safetensors"
    save_file({"x": torch.ones(2)}, path, {"format": "pt"})
    with pytest.raises(ValueError, match=f"{path}: no checkpoint of a training loop: its metadata has no digest"):
        Checkpoints(tmp_path).load(new_run())
    assert list(tmp_path.iterdir()) == [path]


def test_the_newest_stay_and_so_do_milestones(tmp_path: Path) -> None:
    paths = saved(tmp_path, new_run(), *range(1, 12), keep=3, milestone_every=4)
    assert [int(path.stem.removeprefix("step-")) for path in paths] == [4, 8, 9, 10, 11]
    with pytest.raises(ValueError, match="keep=0"):
        Checkpoints(tmp_path, keep=0)


def test_one_set_aside_does_not_count_as_kept(tmp_path: Path) -> None:
    paths = saved(tmp_path, new_run(), 1, 2, 9)
    paths[-1].write_bytes(b"")
    run = new_run()
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.load(run) == 2
    checkpoints.save(3, run)
    checkpoints.close()
    assert sorted(path.name[5:] for path in tmp_path.glob("*.safetensors")) == [
        "00000002.safetensors",
        "00000003.safetensors",
    ]


def test_a_start_removes_what_a_kill_left_and_nothing_else(tmp_path: Path) -> None:
    for name in (".step-00000003.safetensors.unfinished", "curves.jsonl", "step-x.safetensors"):
        (tmp_path / name).write_bytes(b"half")
    assert Checkpoints(tmp_path).load(new_run()) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.jsonl", "step-x.safetensors"]


def test_without_a_folder_nothing_is_saved() -> None:
    run, checkpoints = new_run(), Checkpoints(None)
    assert checkpoints.load(run) == 0
    checkpoints.save(1, run)
    checkpoints.close()
    assert checkpoints._writing is None


def fill(run: Run, step: int) -> None:
    """The state that a step must have, in the test with kills."""
    for tensor in tensors_of(run).values():
        tensor.detach().fill_(step)


def save_until_killed(folder: Path, said: Connection) -> None:
    torch.set_num_threads(1)
    run, checkpoints = trained(vocab_size=4096), Checkpoints(folder)
    step = checkpoints.load(run)
    while True:
        step += 1
        fill(run, step)
        checkpoints.save(step, run)
        said.send(step)


def test_killed_at_any_moment_the_last_saved_but_one_is_there(tmp_path: Path) -> None:
    moments = random.Random(0)
    processes = multiprocessing.get_context("forkserver")  # imports torch once, not ten times
    processes.set_forkserver_preload([__name__, "torch._dynamo"])  # the latter is what a first torch.optim imports
    for _ in range(10):
        heard, said = processes.Pipe(duplex=False)
        process = processes.Process(target=save_until_killed, args=(tmp_path, said))
        process.start()
        said.close()
        for _ in range(moments.randint(1, 12)):
            step = heard.recv()
        process.join(moments.uniform(0, 0.02))  # it does not end: this is the moment of the kill
        process.kill()
        process.join()
        assert process.exitcode == -SIGKILL
        run, must = new_run(vocab_size=4096), trained(vocab_size=4096)
        found = Checkpoints(tmp_path).load(run)
        assert found >= step - 1
        fill(must, found)
        assert_same(copied(run), copied(must))
        assert not list(tmp_path.glob("*.torn")), "a file had its name before it was whole"


@pytest.fixture
def disk(tmp_path: Path, small_file: Path) -> Iterator[Path]:
    """A file system with room for one and a half of the small file."""
    with small_disk(tmp_path / "disk", small_file.stat().st_size * 3 // 2) as folder:
        yield folder


def test_a_full_disk_is_reported_and_what_was_saved_stays(disk: Path) -> None:
    run = trained(vocab_size=8, width=8, layers=1, ffn_width=8)
    (first,) = saved(disk, run, 1)
    checkpoints = Checkpoints(disk)
    checkpoints.save(2, run)
    reason = (
        r"step-0000000{}.safetensors: not written: No space left on device; it needs [\d,]+ bytes and [\d,]+ are free"
    )
    with pytest.raises(OSError, match=reason.format(2)) as raised:
        checkpoints.save(3, run)
    assert raised.value.errno == errno.ENOSPC
    assert list(disk.iterdir()) == [first]
    checkpoints.save(4, run)
    with pytest.raises(OSError, match=reason.format(4)):
        checkpoints.close()
    assert Checkpoints(disk).load(run) == 1


def test_a_limit_on_files_is_reported_too(tmp_path: Path, small_file: Path) -> None:
    """As the full disk, where no file system can be mounted. Python ignores the signal that goes with the limit."""
    run = trained(vocab_size=8, width=8, layers=1, ffn_width=8)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (small_file.stat().st_size // 2, hard))
    try:
        with pytest.raises(OSError, match="step-00000001.safetensors: not written: File too large"):
            saved(tmp_path, run, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_a_version_of_the_format_that_is_not_ours_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as later:
        later.setattr("lm.training.checkpoint.file.VERSION", "2")
        (path,) = saved(tmp_path, new_run(), 1)
    with pytest.raises(ValueError, match="version 2 of the checkpoint format; this code reads 1"):
        Checkpoints(tmp_path).load(new_run())
