"""The items in the order of their worth: what is right comes before what is fast."""

from benchmarks.gpu.checkpoint import checkpoint
from benchmarks.gpu.documents import documents
from benchmarks.gpu.environment import environment
from benchmarks.gpu.head import head
from benchmarks.gpu.kernel_speed import kernel_speed
from benchmarks.gpu.peers import step_plain, step_trainer
from benchmarks.gpu.pretraining import step_documents, step_eager, step_fast, step_preset, step_same
from benchmarks.gpu.rollout import rollout
from benchmarks.gpu.roofs import roofs
from benchmarks.gpu.runner import Item
from benchmarks.gpu.suites import device_tests, kernel_tests
from benchmarks.gpu.tiles import tiles

ITEMS = (
    Item(environment, 5, 30),
    Item(roofs, 15, 40),
    Item(kernel_tests, 40, 110),
    Item(device_tests, 40, 120),
    Item(step_preset, 50, 110),
    Item(step_same, 45, 90),
    Item(step_fast, 40, 90),
    Item(step_plain, 45, 90),
    Item(head, 25, 90),
    Item(documents, 15, 40),
    Item(rollout, 25, 150),
    Item(step_eager, 25, 50),
    Item(kernel_speed, 20, 50),
    Item(checkpoint, 20, 50),
    Item(step_documents, 45, 90),
    Item(step_trainer, 50, 110),
    Item(tiles, 30, 120),
)
