"""What a model makes of each document: the scores of rules that ask one.

One document at a time, whose bits are then the same wherever it stands and however the corpus is divided: on a processor a
document of 200 tokens fills it, a GPU would gain from batches that this does without.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lm.files import replacing
from tasks.core.config import ConfigError
from tasks.core.tables import count_rows, read_batches, shard_paths
from tasks.filter.rule import Setting

if TYPE_CHECKING:
    from lm.model import Decoder
    from lm.tokenizer import Tokenizer

Reader = tuple["Decoder", "Tokenizer", int]  # a model, its tokenizer, and the token before a text
# Characters of a text that are given to the tokenizer, a token of the context: more than tokens have in any language.
CHARACTERS_A_TOKEN = 32


def excerpt_of(tokenizer: "Tokenizer", text: str, context: int) -> tuple[str, list[int]]:
    """(as much of the text's front as so many tokens hold, those tokens)."""
    excerpt = text[: CHARACTERS_A_TOKEN * context]
    ids = tokenizer.encode(excerpt)
    if len(ids) > context:
        ids = ids[:context]
        excerpt = tokenizer.decode(ids).rstrip("\N{REPLACEMENT CHARACTER}")  # of a character cut in two
    return excerpt, ids


def bits_per_byte(model: "Decoder", tokenizer: "Tokenizer", first: int, text: str) -> float:
    """Bits for the text's first `context` tokens after the token `first`, over the bytes of those tokens; NaN of no text."""
    import torch

    context, device = model.config.context, model.head_weight.device
    excerpt, ids = excerpt_of(tokenizer, text, context)
    if not ids or not excerpt:
        return math.nan
    row = torch.tensor([first, *ids], device=device)
    with torch.inference_mode():
        nats = torch.nn.functional.cross_entropy(model(row[None, :-1])[0].float(), row[1:], reduction="sum")
    return nats.item() / math.log(2) / len(excerpt.encode())


def read_checkpoint(slot: str, folder: Path | None) -> Reader:
    """(model, tokenizer, the token before a text: the model's beginning of a text, else our end of the text before), of a rule
    that messages call `slot`. Raises ConfigError naming the file that cannot be used, and for no folder."""
    import torch

    from lm.hugging_face.load import load_hf, read_json
    from lm.tokenizer import Tokenizer

    if folder is None:
        raise ConfigError(f"{slot}: needs a checkpoint.folder in params.yaml")
    try:
        model, tokenizer, said = load_hf(folder), Tokenizer.adopt(folder), read_json(folder / "config.json")
    except ValueError as error:
        raise ConfigError(f"{slot} reads checkpoint.folder: {error}") from None
    known = [token for token in (said.get("bos_token_id"), tokenizer.eos_id) if isinstance(token, int)]
    known = [token for token in known if token < model.config.vocab_size]
    if not known:
        raise ConfigError(f"{folder / 'config.json'}: needs a bos_token_id, the token that a text begins after")
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer, known[0]


def write_scores(
    setting: Setting, files: Sequence[Path], sources: list[str] | None, score: Callable[[str], float]
) -> None:
    """Score the documents of these sources, or of all, into a file a shard, NaN of others; a file that is there is not made
    again."""
    done, total = 0, count_rows(setting.documents)
    for table, file in zip(shard_paths(setting.documents), files, strict=True):
        scores: list[float] = []
        for batch in read_batches(table, ["source", "text"]) if not file.exists() else ():
            for source, text in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                scores.append(score(text) if sources is None or source in sources else math.nan)
                done += 1
                setting.log.progress(done, total, "document")
        if not file.exists():
            with replacing(file) as unfinished, unfinished.open("wb") as out:
                np.save(out, np.array(scores, np.float32))
