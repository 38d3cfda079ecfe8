"""What a student begins as: `shape(teacher) -> ModelConfig` and `build(teacher, seed) -> Decoder`, which raises ConfigError for
a teacher that it does not fit."""

from tasks.distill.students.fresh import Fresh
from tasks.distill.students.layers import Layers
from tasks.distill.students.whole import Whole
