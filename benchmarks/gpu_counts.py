"""What a GPU would move and compute, counted without one, and the time that a roofline predicts of it, before and after.

`before` is what such counts gave at an earlier commit. A count is a function without arguments and has no noise, so one
run of it is enough. The gate holds the FLOP that were counted to those of the model's shape, which no implementation changes: a
count that leaves an operator out, or has one twice, is not shown.
"""

from collections.abc import Callable, Iterator
from functools import cache, partial
from math import isclose

from benchmarks.contest import Arm, Contest, Metric, Sample
from benchmarks.decode_counts import ROWS, decode_counts
from benchmarks.step_counts import CLASSES, PRESET, TOKENS, flops_of_shape, step_counts

# Predicted ms of TOKENS tokens, by class, at c8f229a
STEP_BEFORE = {
    "products": 66.61, "attention": 15.2, "norms": 14.4, "rotation": 3.72, "swiglu": 9.91, "loss": 4.96, "adds": 19.47,
    "casts": 17.52, "other": 0.67, "all": 152.46,
}  # fmt: skip
# Of a token in each row, in GB, and the kernels and operators that are launched, at 7652099: a cache in fp32, copied for every
# layer
DECODE_BEFORE = {"moved": 131.0}
LAUNCHES_BEFORE = {"launches": 591.0}
ROUNDING = 1e-9  # counts are whole numbers


def contests(threads: int) -> Iterator[Contest]:
    """The step with its residual stream in fp32 and in bf16; a token of decoding by a model of 350 million weights."""
    for stream in ("fp32", "bf16"):
        label = f"step of {PRESET}, {TOKENS} tokens, stream {stream}"
        step = partial(of_step, stream), flops_of_shape()
        yield counting_contest(label, partial(milliseconds, stream), STEP_BEFORE, "ms", "c8f229a", *step)
    label = f"a token in each of {ROWS} rows"
    decoding = of_decoding, {"products": decoding_counts()["flops_of_shape"]}
    yield counting_contest(label, gigabytes, DECODE_BEFORE, "GB", "7652099", *decoding)
    yield counting_contest(label, launches, LAUNCHES_BEFORE, "", "7652099", *decoding)


def counting_contest(
    label: str,
    count: Callable[[], dict[str, float]],
    before: dict[str, float],
    unit: str,
    commit: str,
    work: Callable[[], dict[str, float]],
    of_shape: dict[str, float],
) -> Contest:
    """What is counted, by name, beside what it was before, at this commit; less is better. work: FLOP that were counted beside
    it, by class; of_shape: those that there are, of either."""
    metrics = tuple(Metric(f"predicted_{name}", unit) for name in before)

    def arm(name: str, values: Callable[[], dict[str, float]], flops: Callable[[], dict[str, float]]) -> Arm:
        return Arm(name, lambda: Sample({f"predicted_{key}": value for key, value in values().items()}, flops()))

    peer = arm(f"at {commit}", lambda: before, lambda: of_shape)
    return Contest(arm(label, count, work), metrics, (peer,), same_work, pairs=1, threads=1, packages=("torch",))


def same_work(ours: dict[str, float], shape: dict[str, float]) -> str:
    """The classes of which other FLOP were counted than the shape has, in words; "" where there is none."""
    apart = [
        f"{kind}: {ours.get(kind, 0.0):.6g} FLOP were counted, and the shape has {there:.6g}"
        for kind, there in shape.items()
        if not isclose(ours.get(kind, 0.0), there, rel_tol=ROUNDING)
    ]
    return "; ".join(apart)


def of_step(stream: str) -> dict[str, float]:
    """FLOP of a training step that were counted, by class."""
    return dict(step_counts(stream).flops)


@cache
def decoding_counts() -> dict[str, float]:
    """Counts of a step of decoding, which three contests ask for."""
    return decode_counts()


def of_decoding() -> dict[str, float]:
    """FLOP of matrix products that were counted in a step of decoding."""
    return {"products": decoding_counts()["flops"]}


def milliseconds(stream: str) -> dict[str, float]:
    """Predicted ms of a training step, of each class and of all."""
    seconds = step_counts(stream).seconds
    found = {kind: seconds[kind] * 1e3 for kind in CLASSES}
    return {**found, "all": sum(found.values())}


def gigabytes() -> dict[str, float]:
    """GB moved for one step of decoding, a token in each row."""
    return {"moved": decoding_counts()["moved"] / 1e9}


def launches() -> dict[str, float]:
    """Launches on a GPU for one step of decoding."""
    return {"launches": decoding_counts()["launches"]}
