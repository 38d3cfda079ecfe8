"""The faults: each forgets one stage, runs it, and does its harm at an instant that chance chooses."""

import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from flows.servers.answers import get
from flows.servers.prefect_and_mlflow import HOST, child
from tests.ports import free_port
from tests.processes import PATIENCE, command_of, has_ended
from tests.project import DATA_STAGES
from tests.system.chaos.world import World, any_in, children, end

Fault = Callable[[World, str, random.Random], None]
TRAINED = ["pretrain", "sft", "rl", "distill"]
STAGES = [*DATA_STAGES, *TRAINED, "quantize", "evaluate@rl"]
# Of the seconds that a stage takes: later than this it may have ended.
LATEST = 0.9


@dataclass(frozen=True)
class Point:
    """One fault in one stage."""

    name: str
    fault: Fault
    stage: str


def during(
    world: World, stage: str, chance: random.Random, **more: str
) -> tuple[subprocess.Popen[str], psutil.Process | None]:
    """Start the stage and come back in the middle of it; with None where it was too quick."""
    world.forget(stage)
    process = world.start(stage, **more)
    running = world.await_stage(process, stage)
    try:
        process.wait(chance.uniform(0, LATEST) * chance.choice([0.1, 1, 3]))
    except subprocess.TimeoutExpired:
        pass  # chance chose an instant before its end
    return process, running


def kill_stage(world: World, stage: str, chance: random.Random) -> None:
    """The flow tries it again, and ends well."""
    process, running = during(world, stage, chance)
    if running:
        end(running, signal.SIGKILL)
    printed, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, printed


def kill_dvc(world: World, stage: str, chance: random.Random) -> None:
    process, _ = during(world, stage, chance)
    for each in children(process.pid):
        if str(world.folder / "flows" / "stage" / "dvc_cli.py") in command_of(each):
            end(each, signal.SIGKILL)
    process.communicate(timeout=PATIENCE)


def kill_flow(world: World, stage: str, chance: random.Random) -> None:
    process, running = during(world, stage, chance)
    end(process, signal.SIGKILL)
    process.communicate(timeout=PATIENCE)
    if running:
        running.wait(PATIENCE)  # the kernel ends it with its parents


def stop_flow(world: World, stage: str, chance: random.Random) -> None:
    """SIGINT, as Ctrl-C sends it: the stage checkpoints and ends."""
    process, running = during(world, stage, chance, TOKENMILL_CHECKPOINT_SECONDS="3600")
    end(process, signal.SIGINT)
    printed, _ = process.communicate(timeout=PATIENCE)
    assert running is None or has_ended(running)
    began = re.search(rf"{stage} \| [1-9]\d*/\d+ step", printed)
    came_too_late = (world.folder / "data" / stage).exists()  # after its last step it ends its work
    if stage in TRAINED and began and process.returncode and not came_too_late:
        assert f"{stage}: stopped; the next run continues" in printed, printed
        assert list((world.folder / ".scratch" / stage).glob("*/checkpoints/*")), printed


def kill_prefect(world: World, stage: str, chance: random.Random) -> None:
    """The server of this run is lost in the middle of it."""
    home, port = world.folder / ".scratch" / "lost", free_port()
    given = {"PREFECT_HOME": str(home), "PREFECT_API_URL": f"http://{HOST}:{port}/api"}
    given["PREFECT_CLIENT_MAX_RETRIES"] = "1"  # it will not come back
    command = [sys.executable, "-P", "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
    with child("Prefect server", command, world.environment(**given)) as server:
        server.wait_until(lambda: get(f"http://{HOST}:{port}/api/health") is not None)
        process, _ = during(world, stage, chance, **given)
        for each in [*children(server.process.pid), server.process]:
            end(each, signal.SIGKILL)
        process.communicate(timeout=PATIENCE)


def kill_mlflow(world: World, stage: str, chance: random.Random) -> None:
    """The tracking server is lost in the middle: the run ends as if it had not been there."""
    port, store = free_port(), world.folder / ".scratch" / "tracked.db"
    command = [sys.executable, "-P", "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{store}", "--no-serve-artifacts"]
    command += ["--default-artifact-root", store.with_suffix("").as_uri()]  # else mlruns/ where the tests run
    given = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_TRACKING_URI": ""}
    with child("MLflow server", command, world.environment(**given)) as server:
        server.wait_until(lambda: get(f"http://{HOST}:{port}/health") is not None)
        process, _ = during(world, stage, chance, MLFLOW_TRACKING_URI=f"http://{HOST}:{port}")
        for each in [*children(server.process.pid), server.process]:
            end(each, signal.SIGKILL)
        printed, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, printed


def tear_lock(world: World, stage: str, chance: random.Random) -> None:
    """dvc.lock ends somewhere in its middle."""
    path = world.folder / "dvc.lock"
    whole = path.read_bytes()
    path.write_bytes(whole[: chance.randrange(len(whole))])


def tear_output(world: World, stage: str, chance: random.Random) -> None:
    """A file of the stage's output loses its end; DVC's cache has it whole."""
    files = sorted(
        path for path in (world.folder / "data" / stage).rglob("*") if path.is_file() and path.stat().st_size
    )
    path = chance.choice(files)
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(whole[: chance.randrange(len(whole))])


def tear_scratch(world: World, stage: str, chance: random.Random) -> None:
    """Killed, and the newest file of its scratch loses its end. Where that was its only checkpoint, the next run says that none is
    whole, and which folder to delete for a new start, rather than lose the steps in silence."""
    process, running = during(world, stage, chance)
    end(process, signal.SIGKILL)
    process.communicate(timeout=PATIENCE)
    if running:
        running.wait(PATIENCE)
    files = [path for path in (world.folder / ".scratch" / stage).rglob("*") if path.is_file() and path.stat().st_size]
    files = [path for path in files if "checkpoints" in path.parts]
    newest = max(files, key=lambda path: path.stat().st_mtime_ns, default=None)
    if newest:
        newest.write_bytes(newest.read_bytes()[: chance.randrange(newest.stat().st_size)])
    if newest and [path for path in files if path.suffix == ".safetensors"] == [newest]:
        refused = world.run()
        folder = newest.parent.relative_to(world.folder)
        assert refused.returncode and f"delete the folder {folder} to start the stage anew" in refused.stdout, (
            refused.stdout
        )
        shutil.rmtree(newest.parent)


def two_at_once(world: World, stage: str, chance: random.Random) -> None:
    """Two runs of the same stale stage: one does it, the other finds it done."""
    world.forget(stage)
    both = [world.start(stage), world.start(stage)]
    for process in both:
        printed, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, printed


def edit_code(world: World, stage: str, chance: random.Random) -> None:
    """A file that the stage stands on is edited while it runs, and put back: the cache must not learn of it."""
    path = world.folder / "tasks" / stage.partition("@")[0] / "stage.py"
    before = path.read_bytes()
    process, running = during(world, stage, chance)
    if running and running.is_running():
        path.write_bytes(before + b"\n# edited\n")
    process.communicate(timeout=PATIENCE)
    path.write_bytes(before)


def edit_params(world: World, stage: str, chance: random.Random) -> None:
    """So are its parameters."""
    path = world.folder / "params.yaml"
    process, running = during(world, stage, chance)
    if running and running.is_running():
        path.write_bytes(world.params.replace(b"seed: 0", b"seed: 1", 1))
    process.communicate(timeout=PATIENCE)
    path.write_bytes(world.params)


def clock_jumps(world: World, stage: str, chance: random.Random) -> None:
    """The wall clock goes ten years on, or a day back, for every process of the run."""
    library, clock = world.folder / ".scratch" / "clock.so", world.folder / ".scratch" / "clock"
    if not library.exists():
        source = Path(__file__).parent / "clock.c"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    clock.write_text("0")
    process, _ = during(world, stage, chance, LD_PRELOAD=str(library), TEST_CLOCK=str(clock))
    clock.write_text(chance.choice(["-86400", "315360000"]))
    printed, _ = process.communicate(timeout=PATIENCE)
    clock.write_text("0")
    assert process.returncode == 0, printed


def full_disk(world: World, stage: str, chance: random.Random) -> None:
    """No room from an instant on: one line says so, and the run after that, with room again, is right."""
    fill = world.folder / ".scratch" / "fill"
    world.forget(stage)
    process = world.start(stage)
    world.wait(process, lambda: any_in(world.folder / ".scratch" / stage))
    with filled(fill, world.folder, chance.choice([0, 4096, 65536])):
        printed, _ = process.communicate(timeout=PATIENCE)
    if process.returncode:
        assert "No space left" in printed or "make room" in printed or "disk is full" in printed, printed


@contextmanager
def filled(path: Path, disk: Path, but: int) -> Iterator[None]:
    """The disk full, but for so many bytes."""
    with path.open("wb", buffering=0) as file:
        left = max(0, shutil.disk_usage(disk).free - but)
        try:
            while left > 0:
                left -= file.write(bytes(min(left, 1 << 20)))
        except OSError:
            pass  # somebody else was quicker: it is full
    try:
        yield
    finally:
        path.unlink()


def points() -> list[Point]:
    """All of them, every kind in the stages where it means something."""
    table: list[tuple[Fault, list[str]]] = [
        (kill_stage, STAGES),
        (kill_dvc, STAGES),
        (kill_flow, STAGES),
        (stop_flow, TRAINED),
        (kill_prefect, ["filter", "pretrain"]),
        (kill_mlflow, ["tokenize", "sft"]),
        (tear_lock, ["ingest", "curriculum", "quantize"]),
        (tear_output, ["dedup", "pretrain"]),
        (tear_scratch, TRAINED),
        (two_at_once, ["dedup", "rl"]),
        (edit_code, ["filter", "distill"]),
        (edit_params, ["tokenize", "sft"]),
        (clock_jumps, ["ingest", "pretrain", "rl"]),
        (full_disk, ["ingest", "tokenize", "pretrain", "quantize"]),
    ]
    return [Point(f"{fault.__name__}-{stage}", fault, stage) for fault, stages in table for stage in stages]
