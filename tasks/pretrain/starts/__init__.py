"""Where pretraining begins: `(shape, tokenizer, checkpoint folder, seed) -> Decoder`."""

from tasks.pretrain.starts.hugging_face import HuggingFace
from tasks.pretrain.starts.random import Random
