"""What a GPU would move and compute, counted without one, and the time that a roofline predicts of it, before and after.

`before` is what such counts gave at an earlier commit. A count is a function without arguments and has no noise, so one
run of it is enough.
"""

from collections.abc import Callable, Iterator
from functools import partial

from benchmarks import decode_counts
from benchmarks.contest import Arm, Contest, Metric, Sample
from benchmarks.step_counts import CLASSES, PRESET, TOKENS, step_counts

# Predicted ms of TOKENS tokens, by class, at c8f229a
STEP_BEFORE = {
    "products": 66.61, "attention": 15.2, "norms": 14.4, "rotation": 3.72, "swiglu": 9.91, "loss": 4.96, "adds": 19.47,
    "casts": 17.52, "other": 0.67, "all": 152.46,
}  # fmt: skip
# Of a token in each row, in GB, and the kernels and operators that are launched, at 7652099: a cache in fp32, copied for every
# layer
DECODE_BEFORE = {"moved": 131.0}
LAUNCHES_BEFORE = {"launches": 591.0}


def contests(threads: int) -> Iterator[Contest]:
    """The step with its residual stream in fp32 and in bf16; a token of decoding by a model of 350 million weights."""
    for stream in ("fp32", "bf16"):
        label = f"step of {PRESET}, {TOKENS} tokens, stream {stream}"
        yield counted(label, partial(milliseconds, stream), STEP_BEFORE, "ms", "c8f229a")
    label = f"a token in each of {decode_counts.ROWS} rows"
    yield counted(label, gigabytes, DECODE_BEFORE, "GB", "7652099")
    yield counted(label, launches, LAUNCHES_BEFORE, "", "7652099")


def counted(
    label: str, count: Callable[[], dict[str, float]], before: dict[str, float], unit: str, commit: str
) -> Contest:
    """What is counted, by name, beside what it was before, at this commit; less is better."""
    metrics = tuple(Metric(f"predicted_{name}", unit) for name in before)

    def arm(name: str, values: Callable[[], dict[str, float]]) -> Arm:
        return Arm(name, lambda: Sample({f"predicted_{key}": value for key, value in values().items()}))

    peer = arm(f"at {commit}", lambda: before)
    return Contest(arm(label, count), metrics, (peer,), pairs=1, threads=1, packages=("torch",))


def milliseconds(stream: str) -> dict[str, float]:
    """Predicted ms of a training step, of each class and of all."""
    seconds = step_counts(stream).seconds
    found = {kind: seconds[kind] * 1e3 for kind in CLASSES}
    return {**found, "all": sum(found.values())}


def gigabytes() -> dict[str, float]:
    """GB moved for one step of decoding, a token in each row."""
    return {"moved": decode_counts.decode_counts()["moved"] / 1e9}


def launches() -> dict[str, float]:
    """Launches on a GPU for one step of decoding."""
    return {"launches": decode_counts.decode_counts()["launches"]}
