"""D4: planted copies found, fractions kept, and nothing that depends on shards, row groups, threads or workers."""

import random
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.config import ConfigError
from tasks.core.log import Log
from tasks.dedup.documents import DedupResult, Documents
from tasks.dedup.engine.hidden_states import HiddenStates
from tasks.dedup.engine.k_means import assign, k_means
from tasks.dedup.engine.tfidf_svd import TfidfSvd, fit, terms_of, unit
from tasks.dedup.methods.semantic import Semantic, duplicates, earliest_similar, prototypes
from tests.dedup.tables import documents_of, same
from tests.forks.work import share_among_two

SMALL = TfidfSvd(dimensions=16, features=1024)
TEXTS = st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=8).map(" ".join), max_size=12)


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENMILL_SHARD_WORKERS", "1")


def found_in(texts: list[str], method: Semantic, cuts: tuple[int, ...] = (), group: int = 4096) -> DedupResult:
    with tempfile.TemporaryDirectory() as folder:
        return method(documents_of(Path(folder) / "table", texts, cuts, group), Path(folder), Log())


def topics(count: int, seed: int) -> tuple[list[str], dict[int, int]]:
    """Documents of random words of 6 topics, a fifth of them copies with a word in twelve replaced and all in other order;
    and which is a copy of which."""
    rng = random.Random(seed)
    texts: list[str] = []
    copies: dict[int, int] = {}
    for row in range(count):
        if row > 20 and rng.random() < 0.2:
            original = rng.choice([r for r in range(row) if r not in copies])
            words = [
                w if rng.random() > 1 / 12 else f"new{rng.randrange(300)}" for w in texts[original].lower().split()
            ]
            rng.shuffle(words)
            copies[row] = original
        else:
            topic = rng.randrange(6)
            words = [f"Topic{topic}x{rng.randrange(150)}" for _ in range(60)] + [
                f"All{rng.randrange(200)}" for _ in range(20)
            ]
        texts.append(" ".join(words))
    return texts, copies


def test_planted_copies_are_found_and_nothing_else() -> None:
    texts, copies = topics(240, 0)
    found = found_in(texts, Semantic(epsilon=0.2, keep_fraction=1, clusters=6))
    assert {row: int(first) for row, first in enumerate(found.first_N) if first != row} == copies
    assert (found.keep_N == (found.first_N == np.arange(240))).all() and not len(found.cuts_K3)


def test_copies_are_found_in_a_whitened_space_too() -> None:
    texts, copies = topics(600, 1)
    found = found_in(texts, Semantic(embedding=TfidfSvd(dimensions=64), epsilon=0.3, keep_fraction=1, clusters=6))
    said = {row: int(first) for row, first in enumerate(found.first_N) if first != row}
    right = sum(copies.get(row) == first for row, first in said.items())
    assert right >= 0.9 * len(copies) and right >= 0.9 * len(said)


@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.77, 1.0])
def test_the_fraction_is_honoured(fraction: float) -> None:
    texts, copies = topics(100, 2)
    found = found_in(texts, Semantic(embedding=SMALL, epsilon=0.05, keep_fraction=fraction))
    left = int((found.first_N == np.arange(100)).sum())
    assert found.keep_N.sum() == round(fraction * left)
    assert (found.first_N[found.first_N] == found.first_N).all() and (found.first_N <= np.arange(100)).all()


@settings(deadline=None, max_examples=15, derandomize=True)
@given(TEXTS, st.lists(st.integers(0, 12), max_size=3), st.integers(1, 5), st.integers(0, 4))
def test_shards_and_row_groups_leave_no_trace(texts, cuts, group, clusters) -> None:
    method = Semantic(embedding=TfidfSvd(dimensions=4, features=64), clusters=clusters, iterations=3)
    assert same(found_in(texts, method), found_in(texts, method, tuple(cuts), group))


def test_threads_workers_and_blocks_leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    texts, _ = topics(300, 3)
    method = Semantic(embedding=SMALL)
    one = found_in(texts, method)
    monkeypatch.setenv("TOKENMILL_THREADS", "1")
    assert same(one, found_in(texts, method, (120,), 50))
    monkeypatch.setenv("TOKENMILL_THREADS", "3")
    monkeypatch.setattr("tasks.dedup.methods.semantic.PAIRS_BLOCK", 7)
    monkeypatch.setattr("tasks.dedup.engine.k_means.BLOCK", 11)
    assert same(one, found_in(texts, method))
    share_among_two(monkeypatch)
    assert same(one, found_in(texts, method, (10, 200), 33))


def test_cases_that_are_hardly_any() -> None:
    method = Semantic(embedding=SMALL, keep_fraction=1)
    assert not len(found_in([], method).keep_N)
    assert found_in(["one"], method).keep_N.tolist() == [True]
    assert found_in(["one"], Semantic(embedding=SMALL, clusters=50, keep_fraction=0.5)).keep_N.sum() <= 1
    assert found_in(["", "...", ""], method).keep_N.all()  # no words, no direction
    assert found_in(["", "..."], Semantic(embedding=SMALL, keep_fraction=0.1)).keep_N.all()
    found = found_in(["same words"] * 500, method)
    assert found.keep_N.tolist() == [True] + [False] * 499 and not found.first_N.any()
    assert found_in(["a b", "c d", "e f"], Semantic(embedding=SMALL, clusters=9, keep_fraction=1)).keep_N.all()


def test_rows_that_are_gone_count_for_nothing(tmp_path: Path) -> None:
    texts, _ = topics(60, 4)
    alive = np.arange(60) % 3 != 0
    some = Semantic(embedding=SMALL)(Documents(documents_of(tmp_path / "t", texts, (7,)).table, alive), tmp_path, Log())
    alone = found_in([text for text, left in zip(texts, alive, strict=True) if left], Semantic(embedding=SMALL))
    rows = np.flatnonzero(alive)
    assert (some.keep_N[rows] == alone.keep_N).all() and (some.first_N[rows] == rows[alone.first_N]).all()
    assert not some.keep_N[~alive].any()


def test_pairs_against_brute_force() -> None:
    points = unit(np.random.Generator(np.random.Philox(key=1)).standard_normal((90, 3)).astype(np.float32))
    rows = np.arange(0, 90, 2)
    cosines = points[rows].astype(np.float64) @ points[rows].T.astype(np.float64)
    assert (abs(cosines - 0.9) > 1e-5).all()  # no pair at the threshold, so rounding decides nothing
    expected = [next((r for n, r in enumerate(rows[:m]) if cosines[m, n] > 0.9), row) for m, row in enumerate(rows)]
    assert earliest_similar(points, rows, 0.9).tolist() == expected


def test_groups_are_transitive_and_clusters_apart() -> None:
    turn = np.deg2rad([0, 5, 10, 90, 2])  # 5 degrees: 0.9962; 10 degrees: 0.9848
    points = np.column_stack((np.cos(turn), np.sin(turn))).astype(np.float32)
    assert duplicates(points, np.array([0, 0, 0, 0, 1]), 0.005, Log()).tolist() == [0, 0, 0, 3, 4]


def test_the_nearest_to_their_centroids_go() -> None:
    labels, cosines = np.array([0, 0, 1, -1, 1]), np.array([0.5, 0.9, 0.7, 0.0, 0.9], dtype=np.float32)
    assert prototypes(labels, cosines, 0.4).tolist() == [1, 4, 2]
    assert prototypes(labels, cosines, 1.0).tolist() == []
    assert prototypes(labels, cosines, 0.01).tolist() == [1, 4, 2, 0]  # what has no cluster stays


def test_k_means_by_hand() -> None:
    turn = np.deg2rad([0, 90, 10, 80, 20, 70])
    points = np.column_stack((np.cos(turn), np.sin(turn))).astype(np.float32)
    centroids = k_means(points, np.arange(6), 2, 5)
    assert np.allclose(np.rad2deg(np.arctan2(centroids[:, 1], centroids[:, 0])), [10, 80], atol=1e-3)
    labels, cosines = assign(points, np.arange(6), centroids)
    assert labels.tolist() == [0, 1, 0, 1, 0, 1] and np.allclose(cosines[2:4], 1)


def test_the_subspace_is_that_of_a_singular_value_decomposition(tmp_path: Path) -> None:
    texts, _ = topics(100, 5)
    documents = documents_of(tmp_path / "t", texts, (30,))
    config = TfidfSvd(dimensions=6, features=512, iterations=12)
    rows = []
    for _, batch in documents.batches(["text"]):
        terms, counts, ends = terms_of(batch.column("text"), 512)
        for begin, end in zip([0, *ends[:-1]], ends, strict=True):
            row = np.zeros(512)
            row[terms[begin:end]] = 1 + np.log(counts[begin:end])
            rows.append(row)
    matrix = np.array(rows)
    idf = 1 + np.log(101 / (1 + (matrix > 0).sum(0)))
    matrix = matrix * idf / np.linalg.norm(matrix * idf, axis=1, keepdims=True)
    our_idf, basis = fit(documents, config, Log())
    left, values, _ = np.linalg.svd(matrix, full_matrices=False)
    assert np.allclose(our_idf, idf)
    projected = matrix @ basis  # 100 documents for 6 directions: whitened, so its columns span and weigh as U does
    assert np.allclose(projected.T @ projected, np.eye(6), atol=1e-4)
    assert values[5] > values[6] and np.allclose(projected @ projected.T, left[:, :6] @ left[:, :6].T, atol=2e-2)


def test_a_checkpoint_embeds_as_the_library_it_came_from(tmp_path: Path) -> None:
    import torch
    import transformers

    from tests.lm.models import other_tokenizer

    tokenizer, folder = other_tokenizer(), tmp_path / "model"
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "max_position_embeddings": 16}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.LlamaConfig(vocab_size=tokenizer.get_vocab_size() + 2, **size, **heads)
    theirs = transformers.LlamaForCausalLM(config).eval()
    theirs.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    texts = ["the cat sat", "", "the cat sat", "a mat " * 40, "A quite different text."]
    documents = documents_of(tmp_path / "table", texts, (2, 3))
    points = HiddenStates(folder=str(folder))(documents, tmp_path / "embedding", Log())
    for text, point in zip(texts, points, strict=True):
        ids = tokenizer.encode(text, add_special_tokens=False).ids[:16]
        with torch.inference_mode():
            mean = theirs.model(torch.tensor([ids])).last_hidden_state[0].mean(0) if ids else torch.zeros(32)
        assert np.allclose(point, torch.nn.functional.normalize(mean, dim=0), atol=1e-5)
    found = Semantic(embedding=HiddenStates(folder=str(folder)), epsilon=0.001, keep_fraction=1)(
        documents, tmp_path, Log()
    )
    assert found.first_N.tolist() == [0, 1, 0, 3, 4]


def test_a_checkpoint_that_is_none_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^dedup.semantic.embedding.folder: .*tokenizer.json: no such file"):
        found_in(["a"], Semantic(embedding=HiddenStates(folder=str(tmp_path))))
