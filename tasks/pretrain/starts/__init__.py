"""Where pretraining begins: `(shape, tokenizer, checkpoint folder, seed) -> Decoder`."""

from tasks.pretrain.starts.bert2bert import Bert2Bert
from tasks.pretrain.starts.cloned import Cloned
from tasks.pretrain.starts.hugging_face import HuggingFace
from tasks.pretrain.starts.lossless import Lossless
from tasks.pretrain.starts.random import Random
from tasks.pretrain.starts.stacked import Stacked
