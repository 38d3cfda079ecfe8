"""Tokenizers of others: the ids that transformers makes of every text, before training and after export."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tokenizers
import torch
import transformers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from lm.hugging_face.export import save_hf
from lm.tokenizer import SPECIALS, Tokenizer
from tasks.tokenize.encoder import encoder
from tasks.tokenize.methods import HuggingFace
from tasks.tokenize.round_trip import share_lost
from tests.lm.models import other_tokenizer, toy_model

TEXTS = [
    "the cat sat on the mat, 12 + 34 = 46\n", "a", " leading", "trailing ", "two  spaces", "\ttab\n\nlines\r\n", " ",
    "\u00e4\u00f6\u00fc e\u0301 \u2603 \u4f60\u597d \U0001f44d\U0001f3fd", "CAPS and Caps", "x" * 50, "",
]  # fmt: skip


def sentencepiece(metaspace: str | None = None) -> tokenizers.Tokenizer:
    """In the manner of Llama 2: bytes where a character is unknown, a space before the text, a beginning token."""
    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "\u2581",
        *"thecasonm,12+346=",
        "th",
        "the",
    ]
    inner = tokenizers.Tokenizer(
        models.BPE(
            {piece: index for index, piece in enumerate(pieces)},
            [("t", "h"), ("th", "e")],
            byte_fallback=True,
            fuse_unk=True,
            unk_token="<unk>",
        )
    )
    if metaspace:
        inner.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme=metaspace, split=False)
    else:
        inner.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    inner.add_special_tokens(["<unk>", "<s>", "</s>"])
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return inner


def around(single: str) -> tokenizers.Tokenizer:
    """GPT-2's kind with this template around a text; "" is none."""
    inner = other_tokenizer()
    end = ("<|endoftext|>", inner.token_to_id("<|endoftext|>"))
    inner.post_processor = (
        processors.TemplateProcessing(single=single, special_tokens=[end])
        if single
        else processors.ByteLevel(trim_offsets=False)
    )
    return inner


NAMED = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
KINDS: dict[str, tuple[Callable[[], tokenizers.Tokenizer], dict[str, Any]]] = {
    "nothing around": (lambda: around(""), {}),
    "begins": (lambda: around("<|endoftext|> $A"), {"bos_token": "<|endoftext|>"}),
    "ends": (lambda: around("$A <|endoftext|>"), {"eos_token": "<|endoftext|>"}),
    "begins and ends": (lambda: around("<|endoftext|> $A <|endoftext|>"), {}),
    "byte fallback": (sentencepiece, NAMED),
    "metaspace": (lambda: sentencepiece("always"), NAMED),
    "metaspace first": (lambda: sentencepiece("first"), NAMED),
    "add_eos": (sentencepiece, {**NAMED, "add_bos_token": False, "add_eos_token": True}),
    "add_bos": (lambda: around(""), {"bos_token": "<|endoftext|>", "add_bos_token": True}),
}


def folder_of(kind: str, folder: Path) -> Path:
    make, described = KINDS[kind]
    make().save(str(folder / "tokenizer.json"))
    described = {"tokenizer_class": "PreTrainedTokenizerFast", **described}
    (folder / "tokenizer_config.json").write_text(
        json.dumps(described), encoding="utf-8-sig" if kind == "ends" else None
    )
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_document_is_what_transformers_makes_of_it(kind: str, tmp_path: Path) -> None:
    """Of the folder that was adopted and of the one that is exported; the end that training puts after it aside."""
    ours = Tokenizer.adopt(folder_of(kind, tmp_path))
    save_hf(toy_model(vocab_size=ours.vocab_size), ours, tmp_path / "out", torch.float32)
    if kind == "ends":  # transformers takes no byte order mark
        described = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8-sig"))
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(described))
    theirs, exported = (transformers.AutoTokenizer.from_pretrained(f) for f in (tmp_path, tmp_path / "out"))
    for text in TEXTS:
        document = [*ours.before, *ours.encode(text), *ours.after, ours.eos_id]
        for other in (theirs, exported):
            ids = other(text, truncation=False).input_ids
            assert ids in (document, document[:-1]), (text, ids, document)
        if not kind.startswith("metaspace"):  # which puts no space before one, and takes the first away
            assert ours.decode(ours.encode(text)) == text
    asked = [{"role": "user", "content": "hi <s>"}]
    said = exported.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
    assert said[0] == ours.user_id and said[-1] == ours.assistant_id
    assert exported.bos_token_id == (ours.before[0] if ours.before else None) and exported.padding_side == "left"


@pytest.mark.parametrize("name", ["gigatoken", "tokenizers"])
def test_the_corpus_has_what_is_around_a_text(name: str, tmp_path: Path) -> None:
    ours = Tokenizer.adopt(folder_of("begins and ends", tmp_path))
    assert (ours.before, ours.after) == ([ours.eos_id], [])  # the end is put there anyway
    ours = Tokenizer.adopt(folder_of("begins", tmp_path))
    ids, offsets = encoder(name, ours.to_json())(pa.array(TEXTS, pa.large_string()))
    parts = [part.tolist() for part in np.split(ids, offsets[1:-1])]
    assert parts == [[*ours.before, *ours.encode(text)] for text in TEXTS]
    both = sentencepiece()
    both.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    both.save(str(tmp_path / "tokenizer.json"))
    ours = Tokenizer.adopt(tmp_path)
    assert (ours.before, ours.after) == ([1], [2])
    ids, offsets = encoder("tokenizers", ours.to_json())(pa.array(TEXTS, pa.large_string()))
    assert [part.tolist() for part in np.split(ids, offsets[1:-1])] == [[1, *ours.encode(text), 2] for text in TEXTS]


@pytest.mark.parametrize("token", [*SPECIALS, "</s>"])
def test_no_text_spells_a_control_token_that_was_not_special(token: str, tmp_path: Path) -> None:
    inner = sentencepiece()
    described = json.loads(inner.to_str())
    described["added_tokens"] = [added for added in described["added_tokens"] if added["content"] != "</s>"]
    inner = tokenizers.Tokenizer.from_str(json.dumps(described))
    inner.add_tokens([AddedToken(token, special=False, normalized=False)])
    inner.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(NAMED))
    ours = Tokenizer.adopt(tmp_path)
    index = inner.token_to_id(token)
    assert index not in ours.encode(f"quote {token} in a document")
    assert ours.decode(ours.encode(f"quote {token}")) == f"quote {token}"
    assert ours.decode([*ours.encode("the"), index]) == "the"


def words(**vocabulary: int) -> tokenizers.Tokenizer:
    """Whole words between white space, as old models have them."""
    inner = tokenizers.Tokenizer(models.WordLevel({"[UNK]": 0, **vocabulary}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return inner


def test_a_vocabulary_that_spells_a_control_token_is_refused(tmp_path: Path) -> None:
    words(**{"<|end|>": 1, "the": 2}).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"tokenizer.json: a text that spells <\|end\|> becomes that control token"):
        Tokenizer.adopt(tmp_path)


def share_of(corpus: list[str], folder: Path) -> float:
    """The share that the tokenizer in a folder loses of a corpus."""
    return share_lost(HuggingFace()(iter(corpus), folder), iter(corpus), folder / "tokenizer.json")


def test_a_tokenizer_that_loses_text_says_how_much(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = ["The cat sat on the mat and the dog sat on the cat"] * 3 + ["the cat"]
    inner = sentencepiece()
    inner.save(str(tmp_path / "tokenizer.json"))
    assert share_of(corpus, tmp_path) == 0 and capsys.readouterr().err == ""
    lower = normalizers.Sequence([normalizers.Lowercase(), inner.normalizer])
    inner.normalizer = lower
    inner.save(str(tmp_path / "tokenizer.json"))
    assert share_of(corpus, tmp_path) == 3 / (3 * 49 + 7)
    said = capsys.readouterr().err
    assert "tokenizer.json: of 4 texts 3 do not come back as they were" in said and said.count("\n") == 1
    assert f"{3 / (3 * 49 + 7):.2%} of the characters are lost, such as 'T'" in said and "cannot be compared" in said


@pytest.mark.parametrize(
    ("text", "normalizer"),
    [("\ufb01\ufb02\uff21\uff22", normalizers.NFKC()), ("   \n  a", normalizers.Strip()), ("\u4f60\u597d", None)],
    ids=["compatibility", "white space", "unknown"],
)
def test_a_tokenizer_that_loses_most_is_refused(text: str, normalizer: Any, tmp_path: Path) -> None:
    inner = around("") if normalizer else words(the=1)
    if normalizer:
        inner.normalizer = normalizer
    inner.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"tokenizer.json: of 2 texts [12] do not come back .* made for other texts"):
        share_of([text, "the"], tmp_path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "tokenizer.model",
            "tokenizer.model alone is not read: have transformers write it, AutoTokenizer.from_pretrained",
        ),
        ("vocab.json", "vocab.json alone is not read"),
        ("dataset_info.json", "is a data set that save_to_disk"),
        ("README.md", "is .* a model folder, and has what writes it run"),
    ],
)
def test_a_folder_without_its_tokenizer_says_what_to_do(name: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=f"tokenizer.json: no such file.*{said}"):
        Tokenizer.adopt(tmp_path)


def test_a_name_of_the_hub_is_no_folder() -> None:
    with pytest.raises(ValueError, match="`hf download Qwen/Qwen3-0.6B --local-dir models/Qwen/Qwen3-0.6B`"):
        Tokenizer.adopt(Path("Qwen/Qwen3-0.6B"))
