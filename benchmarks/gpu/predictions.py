"""What an H100 (80 GB, SXM) should give, and why: written before anything of this project had run on one.

Bytes and FLOP are counted, of the operators of a training step on fake tensors and of a token that is decoded; they are divided
by 2.6 TB/s, by 650 TFLOP/s in large products, and by 330 (forward) and 270 (backward) in attention. A figure that misses what
stands here by more than a fifth is to be explained.
"""

from typing import NamedTuple


class Prediction(NamedTuple):
    """Range predicted, low to high, in the unit of the row, and why."""

    low: float
    high: float
    because: str


SEEN = "seen on such a card, in a session without this project"
STEP = (
    "at most 115 ms of bytes and products for 65,536 tokens, eight times, and some 15 ms for update, sums and the host"
)
NORM = "the copy's rate, less what short rows and sums over rows cost"
PASS = "reads weights and the filled part of the cache in bf16 once, 10.4 GB at 512 rows, and at most 0.3 of it again"

PREDICTIONS: dict[tuple[str, str], Prediction] = {
    ("roofs", "bf16 product, square"): Prediction(750, 820, SEEN),
    ("roofs", "bf16 product, query, output"): Prediction(400, 600, "K = 768: a tile has few steps between start and store"),
    ("roofs", "bf16 product, gate, up"): Prediction(450, 650, "K = 768, as query and output, but more tiles"),
    ("roofs", "bf16 product, down"): Prediction(550, 720, "K = 2048"),
    ("roofs", "bf16 product, logits of a chunk"): Prediction(500, 680, "K = 768, and 0.5 GB of logits written"),
    ("roofs", "fp32 product, TF32 off"): Prediction(45, 60, "67 TFLOP/s by the data sheet"),
    ("roofs", "Newton-Schulz of gpu-124m"): Prediction(3, 5, "1.69 TFLOP at 400 to 550 TFLOP/s in bf16; in fp32 30 to 40 ms"),
    ("roofs", "copy on the device"): Prediction(2900, 3100, SEEN),
    ("roofs", "pinned to host"): Prediction(45, 56, "PCIe 5 x16, 63 GB/s by the standard"),
    ("roofs", "pinned to device"): Prediction(45, 56, "PCIe 5 x16, 63 GB/s by the standard"),
    ("step_preset", "step"): Prediction(0.90, 1.05, STEP),
    ("step_preset", "tokens a second"): Prediction(500e3, 583e3, STEP),
    ("step_preset", "MFU"): Prediction(36, 42, STEP),
    ("step_preset", "host waits in a step"): Prediction(1, 2, "loss, norm and figures in one copy before the update"),
    ("step_preset", "device busy"): Prediction(95, 100, "the next batch is made beside the step"),
    ("step_eager", "tokens a second"): Prediction(456e3, 552e3, STEP + "; launches are hidden behind 0.1 s a micro-batch"),
    ("step_same", "tokens a second"): Prediction(510e3, 596e3, STEP + ", without QK-norm and Newton-Schulz"),
    ("step_documents", "tokens a second"): Prediction(477e3, 583e3, STEP + "; own kernel, of documents of 500 tokens"),
    ("head", "ours: time"): Prediction(38, 46, "36 ms of products at 720 TFLOP/s, and passes over chunks of logits"),
    ("head", "ours: extra memory"): Prediction(0.3, 1.0, "a chunk of logits; sums are those of the gradient itself"),
    ("head", "ours, softcap: time"): Prediction(38, 47, "as without, one tanh a logit more"),
    ("head", "ours, softcap: extra memory"): Prediction(0.3, 1.0, "as without"),
    ("documents", "ours, documents, 64 wide: forward"): Prediction(200, 350, "Triton; a third of the tiles is masked"),
    ("documents", "ours, documents, 64 wide: backward"): Prediction(120, 230, "two passes over the scores"),
    ("documents", "ours, documents, 128 wide: forward"): Prediction(250, 420, "twice the products a score"),
    ("documents", "whole rows, 128 wide: forward"): Prediction(400, 600, "cuDNN"),
    ("documents", "whole rows, 128 wide, deterministic: forward"): Prediction(300, 420, "FlashAttention 2: cuDNN refuses"),
    ("rollout", "ours, few rows"): Prediction(40e3, 64e3, "1.0 to 1.6 ms a token: 250 launches in a graph"),
    ("rollout", "ours, many rows"): Prediction(80e3, 125e3, PASS),
    ("rollout", "transformers, dynamic cache, few rows"): Prediction(2.5e3, 3.5e3, "18 to 25 ms a token of launches alone"),
    ("rollout", "transformers, dynamic cache, many rows"): Prediction(20e3, 45e3, "launches; a cache copied for each token"),
    ("kernel_speed", "rms_norm, 768 wide fp32 forward, ours"): Prediction(2300, 2900, NORM),
    ("kernel_speed", "rms_norm, 768 wide fp32 backward, ours"): Prediction(1800, 2800, NORM),
    ("kernel_speed", "rms_norm, 768 wide bf16 forward, ours"): Prediction(2000, 2800, NORM),
    ("kernel_speed", "rms_norm, 768 wide bf16 backward, ours"): Prediction(1600, 2700, NORM),
    ("kernel_speed", "rms_norm, heads of 128 forward, ours"): Prediction(1800, 2700, NORM),
    ("kernel_speed", "swiglu forward, ours"): Prediction(2400, 2900, "the copy's rate"),
    ("kernel_speed", "swiglu backward, ours"): Prediction(2300, 2900, "the copy's rate"),
    ("kernel_speed", "rope forward, ours"): Prediction(2000, 2800, "the copy's rate, less for heads read across rows"),
    ("kernel_speed", "rope backward, ours"): Prediction(2000, 2800, "the copy's rate, less for heads read across rows"),
    ("checkpoint", "second save: stall"): Prediction(75, 95, "4.2 GB into memory that is pinned already, at 45 to 56 GB/s"),
}  # fmt: skip
