"""What a stage will need, from what its rehearsal counted: memory of its process or GPU, time, and whether it fits."""

from dataclasses import dataclass

from flows.forecast.dry_run import DryRunResult
from lm.sampler import capacity_of, whole_pieces
from lm.training.flops import PEAKS, card_of, forward_flops_per_token
from tasks.about.work import Lower, Sampling, Step

# Of a stage's process beside its model: Python, torch 2.13 for CPUs, pyarrow; and mlflow where it records. What the peak of a
# stage leaves when rehearsal and data are taken away, measured at 0.05 to 2 million weights.
PROCESS_BYTES, TRACKER_BYTES = 490 * 2**20, 110 * 2**20
# Of a GPU's memory; the rest is CUDA's own context and the gaps between blocks
USABLE = 0.92
# Share of the products' roof that training reaches. CPU: between two rows of benchmarks/results/pretrain_step.jsonl at d1181ef,
# 0.60 at 1.3 and 0.70 at 6.9 million weights. GPU: gpu-124m on an H200, 0.38 with Muon and 0.41 with AdamW
# (benchmarks/results/gpu); Llama 3 reached 0.38 to 0.43 in bf16 on H100 (arXiv:2407.21783, table 4).
UTILIZATION = {"cpu": 0.65, "gpu": 0.4}
# Of writing a token: what a layer costs beside what it reads, for all rows of it. GPU: 22 kernels of 2 us, replayed as a graph;
# predicted.
LAYER_SECONDS = {"cpu": 3e-4, "gpu": 5e-5}


@dataclass(frozen=True)
class Machine:
    """flops: of a matrix product, a second; bandwidth: bytes read a second. gpu: whether memory is a GPU's."""

    name: str
    gpu: bool
    memory: int
    flops: float
    bandwidth: float


# Of each GPU: the name that MACHINE takes, the card as card_of finds it in a device's name, the GB that torch reports of such a
# card in all, and the TB/s of NVIDIA's data sheets. FLOP/s are PEAKS'.
GPUS = (
    ("b200", "B200", 191, 8.0),
    ("h200", "H200", 150, 4.8),
    ("h200-nvl", "H200 NVL", 150, 4.8),
    ("h100", "H100", 85, 3.35),
    ("h100-nvl", "H100 NVL", 100, 3.9),
    ("h100-pcie", "H100 PCIe", 85, 2.0),
    ("h20", "H20", 102, 4.0),
    ("a100", "A100", 85, 2.04),
    ("a100-40g", "A100 40GB", 42, 1.56),
    ("l40s", "L40S", 47, 0.864),
    ("l4", "L4", 23, 0.3),
    ("rtx-pro-6000", "RTX PRO 6000", 102, 1.79),
    ("rtx-5090", "RTX 5090", 33, 1.79),
    ("rtx-4090", "RTX 4090", 25, 1.01),
    ("rtx-3090", "RTX 3090", 25, 0.94),
)
MACHINES = {
    name: Machine(name, True, gigabytes * 10**9, PEAKS[card_of(card, PEAKS) or card], rate * 1e12)
    for name, card, gigabytes, rate in GPUS
}


def machine_called(device_name: str) -> Machine | None:
    """The machine whose card a device's name means; None where no card's is meant."""
    names = {card: name for name, card, *_ in GPUS}
    card = card_of(device_name, names)
    return MACHINES[names[card]] if card else None


@dataclass(frozen=True)
class Forecast:
    """parameters: of the model and what is trained beside it. flops: of the tokens that count, as Throughput has it, and of the
    models that read them and do not learn. seconds:
    of them `sampling_seconds` are for answers that are sampled. fits: whether bytes are there, of the memory. host_bytes: of a
    GPU's host, beside its process."""

    parameters: int
    tokens: float
    flops: float
    bytes: float
    seconds: float
    sampling_seconds: float
    positions: int
    length: int
    fits: bool
    sampling_is_the_peak: bool
    state_bytes: float
    host_bytes: float


def forecast(
    step: Step,
    steps: int,
    tokens: float,
    rehearsed: DryRunResult,
    process_bytes: float,
    machine: Machine,
    saves_every: float,
) -> Forecast:
    """Forecast of `steps` steps of one size. process_bytes: of its process beside model and training, for a CPU. A checkpoint's
    copy of the state counts where the stage is long enough for one."""
    per_token = rehearsed.flops
    reached = UTILIZATION["gpu" if machine.gpu else "cpu"] * machine.flops
    sampling = sum(steps / each.steps * sampling_seconds(each, reached, machine) for each in step.sampling)
    work = per_token + (forward_of(step, per_token) if rehearsed.forward_again else 0.0)
    frozen = step.frozen_part * step.frozen_flops
    training = steps * step.batch.tokens * (work + frozen) / reached
    peak = max(rehearsed.step_bytes, rehearsed.sampling_bytes)
    if not machine.gpu:
        peak += process_bytes
        if sampling + training >= saves_every:
            peak += rehearsed.state_bytes
    return Forecast(
        parameters=step.model.num_parameters(),
        tokens=tokens,
        flops=tokens * (per_token + frozen),
        bytes=peak,
        seconds=sampling + training,
        sampling_seconds=sampling,
        positions=rehearsed.positions,
        length=step.batch.length,
        fits=peak <= machine.memory * (USABLE if machine.gpu else 1.0),
        sampling_is_the_peak=rehearsed.sampling_bytes > rehearsed.step_bytes,
        state_bytes=rehearsed.state_bytes,
        host_bytes=rehearsed.host_bytes,
    )


def forward_of(step: Step, flops: float) -> float:
    """FLOP a token of the forward pass, of so many in all: a third; of a model that stays as it is, whose matrices have no
    gradients, a half and more."""
    trained = all(weight.requires_grad for weight in step.model.parameters())
    return flops / 3 if trained else forward_flops_per_token(step.model, step.batch.length)


def sampling_seconds(sampling: Sampling, reached: float, machine: Machine) -> float:
    """Seconds for one batch of answers: a token of each row reads all weights and slots of the cache; a prompt is products. On
    a CPU all slots in fp32, on a GPU those filled, half of an answer's on average, in bf16.

    Vectors that the model carries in front of every prompt count as tokens of it. Counted as if every answer had all its
    tokens, which an answer that ends sooner has not.
    """
    config, rows = sampling.model.config, sampling.rows
    weights, active = sampling.model.num_parameters(), sampling.model.num_active()
    carried = len(sampling.model.prompt or ())
    slots: float = capacity_of(sampling.prompt, sampling.new_tokens, config.context, machine.gpu) + carried
    if machine.gpu:
        slots = carried + sampling.prompt + sampling.new_tokens / 2
    each = 2 if machine.gpu else 4
    token = max(2 * active * rows / reached, each * (weights + rows * config.state_numel(slots)) / machine.bandwidth)
    token += config.layers * LAYER_SECONDS["gpu" if machine.gpu else "cpu"]
    read = (carried + whole_pieces(sampling.prompt, config.context)) * sampling.prompts
    return 2 * active * read / reached + token * sampling.new_tokens * sampling.answers / rows


def advice(stage: str, lower: Lower, found: Forecast, machine: Machine) -> str:
    """What to lower where a stage does not fit, in one line."""
    needed, there = found.bytes / 1e9, machine.memory / 1e9
    if found.state_bytes + 4 * found.parameters > machine.memory * USABLE:
        which = lower.weights
    else:
        which = lower.sampling if found.sampling_is_the_peak else lower.rest
    return f"{stage}: needs {needed:.1f} GB of {machine.name}'s {there:.1f} GB; lower {which}"
