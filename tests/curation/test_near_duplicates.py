"""Near-duplicate search against brute force over Python sets, and what must not change its answer."""

import random
import re
import unicodedata
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_lib.curation.alphabet import alphabet
from pipeline_lib.curation.candidates import RUN, Rows, alike, candidates
from pipeline_lib.curation.clusters import Clusters
from pipeline_lib.curation.minhash import permutations, signatures
from pipeline_lib.curation.near_duplicates import Index, cluster, matches
from pipeline_lib.curation.shingles import exact_keys, shingle

VOCABULARY = [f"w{n}" for n in range(2000)]
HAN_KANA = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
WORD = re.compile(rf"[{HAN_KANA}]|(?:(?![{HAN_KANA}])[^\W_])+")
LETTERS = "abcXYZ 019.,!-_'\n\t éÖñß жЯ λΣ 中文字漢かナ ﬁ \uff21\uff11 "


def words_of(text: str) -> list[str]:
    return WORD.findall(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()))


def shingles_of(text: str, ngram: int = 5) -> frozenset[tuple[str, ...]]:
    words = words_of(text)
    if not words:
        return frozenset([("", text)])
    width = min(ngram, len(words))
    return frozenset(tuple(words[at : at + width]) for at in range(len(words) - width + 1))


def numbered_sets(texts: list[str]) -> list[frozenset[int]]:
    """Shingle sets with a number for each shingle: tuples would be hashed again at each comparison."""
    numbers: dict[tuple[str, ...], int] = {}
    return [frozenset(numbers.setdefault(each, len(numbers)) for each in shingles_of(text)) for text in texts]


def jaccard(left: frozenset[Any], right: frozenset[Any]) -> float:
    return len(left & right) / len(left | right)


def all_pairs(texts: list[str], threshold: float) -> dict[tuple[int, int], float]:
    sets = numbered_sets(texts)
    found = {(i, j): jaccard(sets[i], sets[j]) for i, j in combinations(range(len(sets)), 2)}
    return {pair: similarity for pair, similarity in found.items() if similarity >= threshold}


def components(count: int, pairs: list[tuple[int, int]]) -> list[int]:
    roots = list(range(count))
    for i, j in pairs:
        low, high = sorted((roots[i], roots[j]))
        roots = [low if root == high else root for root in roots]
    return roots


def edited(text: str, rng: random.Random) -> str:
    words = text.split()
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(words))
        words[at : at + 1] = rng.choice([["typo"], [], [words[at], "more"]])
    line = " ".join(words)
    return rng.choice([line, line.upper(), line.replace(" ", ",  ")])


def corpus(count: int, seed: int = 1) -> list[str]:
    """Texts of 20 to 100 words, a half of them edited copies of others."""
    rng = random.Random(seed)
    texts = [" ".join(rng.choices(VOCABULARY, k=rng.randrange(20, 100))) for _ in range(count // 2)]
    while len(texts) < count:
        texts.append(edited(rng.choice(texts), rng))
    rng.shuffle(texts)
    return texts


def partition(clusters: Clusters, texts: list[str]) -> set[frozenset[str]]:
    return {frozenset(texts[i] for i in group) for group in clusters.groups()}


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return corpus(1200)


@pytest.fixture(scope="module")
def truth(texts: list[str]) -> dict[tuple[int, int], float]:
    return all_pairs(texts, 0.5)


@pytest.fixture(scope="module")
def index(texts: list[str]) -> Index:
    index = Index()
    index.add(texts)
    return index


@given(st.lists(st.text(LETTERS, max_size=60), min_size=2, max_size=8))
def test_similarity_is_the_jaccard_of_the_word_shingles(texts: list[str]) -> None:
    index = Index()
    index.add(texts)
    left, right = np.triu_indices(len(texts), 1)
    sets = [shingles_of(text) for text in texts]
    expected = [jaccard(sets[i], sets[j]) for i, j in zip(left, right, strict=True)]
    assert index.similarity(left, right).tolist() == expected
    assert np.diff(shingle(texts).offsets).tolist() == [len(shingles) for shingles in sets]


@given(st.text(max_size=200), st.text(max_size=50))
def test_any_text_has_sorted_shingles_and_one_key(text: str, other: str) -> None:
    found = shingle([text, other, text])
    first = found.hashes[found.offsets[0] : found.offsets[1]]
    assert len(first) >= 1
    assert (np.diff(first.astype(object)) > 0).all()
    assert found.keys[0].tolist() == found.keys[2].tolist()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Hello, World!", "hello   world"),
        ("caf\u00e9 \u00fcber", "cafe\u0301 u\u0308ber"),
        ("\uff26\uff55\uff4c\uff4c width \uff11", "full WIDTH 1"),
        ("Straße ΣΑΣ", "STRASSE σας"),
        ("ﬁne oﬃce", "fine office"),
        ("zero\u200bwidth", "zerowidth"),
        ("ｶﾞｷﾞ", "ガギ"),
        ("한국어", unicodedata.normalize("NFD", "한국어")),
        ("\U0001d41b\U0001d428\U0001d425\U0001d41d text", "bold text"),
        ("smile \U0001f600\ufe0f!", "smile"),
        ("\ufdfa", "صلى الله عليه وسلم"),
        (None, ""),
    ],
)
def test_case_punctuation_and_character_forms_do_not_count(one: str | None, other: str) -> None:
    first, second = exact_keys([one, other]).tolist()
    assert first == second


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a b", "b a"),
        ("ab", "a b"),
        ("a a", "a"),
        ("हिन्दी", "हिन्दा"),
        ("!!!", "???"),
        ("", " "),
        ("中文", "文中"),
        ("\U00020000", "\U00020001"),
    ],
)
def test_different_words_have_different_keys(one: str, other: str) -> None:
    first, second = exact_keys([one, other]).tolist()
    assert first != second


def test_scripts_without_spaces_are_read_by_character() -> None:
    poem, thai_of_ten_letters_and_two_marks = "床前明月光疑是地上霜", "สวัสดีชาวโลก"
    found = shingle([poem, thai_of_ten_letters_and_two_marks, "hello wide world"], 3)
    assert np.diff(found.offsets).tolist() == [8, 8, 1]


def test_one_changed_character_of_sixty_leaves_chinese_texts_near_duplicates() -> None:
    rng = random.Random(3)
    base = "".join(chr(rng.randrange(0x4E00, 0x9FFF)) for _ in range(60))
    found = cluster([base, base[:30] + "变" + base[31:], base[::-1]], threshold=0.8)
    assert found.roots.tolist() == [0, 0, 2]
    assert found.jaccards[1] == pytest.approx(51 / 61)


def test_symbols_can_be_words_and_characters_can_be_the_unit() -> None:
    stripped = exact_keys(["2 + 3", "2 - 3"])
    kept = exact_keys(["2 + 3", "2 - 3"], words=alphabet(symbols="+-"))
    assert stripped[0].tolist() == stripped[1].tolist()
    assert kept[0].tolist() != kept[1].tolist()
    assert len(shingle(["Hello world"], 4, words=alphabet("character")).hashes) == 7


def test_every_pair_found_is_true_and_few_true_ones_are_missed(
    texts: list[str], index: Index, truth: dict[tuple[int, int], float]
) -> None:
    normal = [" ".join(words_of(text)) for text in texts]
    first = [normal.index(text) for text in normal]
    truth = {(i, j): found for (i, j), found in truth.items() if first[i] == i and first[j] in (i, j)}
    left, right, found = index.pairs(0.7)
    pairs = dict(zip(zip(left.tolist(), right.tolist(), strict=True), found.tolist(), strict=True))
    assert all(truth[pair] == similarity for pair, similarity in pairs.items())
    close = [pair for pair, similarity in truth.items() if similarity >= 0.8]
    middling = [pair for pair, similarity in truth.items() if 0.7 <= similarity < 0.8]
    assert len(close) > 250
    assert len(middling) > 50
    assert sum(pair in pairs for pair in close) >= 0.999 * len(close)
    assert sum(pair in pairs for pair in middling) >= 0.99 * len(middling)


@pytest.mark.parametrize("threshold", [0.6, 0.7, 0.8, 0.95])
def test_clusters_are_the_components_of_the_pairs(index: Index, threshold: float) -> None:
    left, right, _ = index.pairs(threshold)
    expected = components(len(index), list(zip(left.tolist(), right.tolist(), strict=True)))
    assert index.clusters(threshold).roots.tolist() == expected


def test_partners_are_verified_and_lead_to_the_root(texts: list[str], index: Index) -> None:
    found = index.clusters(0.7)
    duplicates = np.flatnonzero(found.duplicates)
    for text in duplicates.tolist():
        partner = int(found.partners[text])
        assert found.jaccards[text] == jaccard(shingles_of(texts[text]), shingles_of(texts[partner])) >= 0.7
    walk = found.partners
    for _ in range(len(walk)):
        walk = found.partners[walk]
    assert walk.tolist() == found.roots.tolist()
    roots = np.flatnonzero(~found.duplicates)
    assert found.partners[roots].tolist() == roots.tolist() == found.roots[roots].tolist()


def test_the_order_of_the_texts_does_not_change_the_clusters(texts: list[str], index: Index) -> None:
    shuffled = random.Random(5).sample(texts, len(texts))
    found = cluster(shuffled, threshold=0.7)
    assert partition(found, shuffled) == partition(index.clusters(0.7), texts)


@pytest.mark.parametrize(("workers", "batch"), [(1, 1), (3, 100), (2, 5000)])
def test_batches_workers_and_files_do_not_change_the_answer(
    texts: list[str], index: Index, tmp_path: Path, workers: int, batch: int
) -> None:
    other = Index(workers=workers, directory=tmp_path / "index")
    for begin in range(0, len(texts), batch):
        other.add(pa.chunked_array([texts[begin : begin + batch]]))
    expected, found = index.clusters(0.7), other.clusters(0.7)
    for name in ("roots", "partners", "jaccards"):
        assert getattr(found, name).tolist() == getattr(expected, name).tolist()


def test_an_index_can_grow_after_it_was_asked(texts: list[str], index: Index) -> None:
    growing = Index()
    growing.add(texts[:700])
    growing.clusters()
    growing.add(texts[700:])
    assert growing.clusters().roots.tolist() == index.clusters().roots.tolist()


def test_ten_thousand_copies_are_one_cluster() -> None:
    found = cluster([*["the same words over and over again"] * 10_000, "another text"], threshold=0.8)
    assert found.roots.tolist() == [0] * 10_000 + [10_000]
    assert (found.partners[:10_000] == 0).all()


def test_texts_of_equal_shingles_but_different_keys_are_one_cluster() -> None:
    rounds = [" ".join(["one two three four five"] * times) for times in range(3, 1000)]
    found = cluster(rounds, threshold=0.8)
    assert (found.roots == 0).all()
    assert (found.jaccards == 1).all()


@pytest.mark.parametrize("shared", [10, 30])
def test_a_bucket_full_of_one_template_loses_no_pair(shared: int) -> None:
    rng = random.Random(7)
    template = " ".join(rng.choices(VOCABULARY, k=shared))
    texts = [f"{template} {' '.join(rng.choices(VOCABULARY, k=20))}" for _ in range(2 * RUN)]
    texts += [edited(text, rng) for text in texts]
    texts = sorted({" ".join(words_of(text)) for text in texts})
    found = shingle(texts)
    halves = (found.hashes >> np.uint64(32)).astype(np.uint32)
    rows = Rows(halves, found.offsets[:-1], np.diff(found.offsets).astype(np.int32))
    one_bucket = np.zeros(len(texts), np.uint32)
    pairs = set()
    for chunk in candidates([one_bucket], rows, np.arange(len(texts)), 0.7):
        left, right, _ = alike(rows, chunk, 0.7)
        pairs |= {(min(pair), max(pair)) for pair in zip(left.tolist(), right.tolist(), strict=True)}
    assert pairs == set(all_pairs(texts, 0.7))


def test_matches_name_the_best_partner_of_each_query(texts: list[str]) -> None:
    queries, stock = [*texts[:200], texts[300], "no such text anywhere in it"], texts[200:700]
    sets = numbered_sets([*stock, *queries])
    found = matches(queries, stock, 0.7)
    best_ones = zip(found.partners.tolist(), found.jaccards.tolist(), strict=True)
    got = dict(zip(found.queries.tolist(), best_ones, strict=True))
    for query, asked in enumerate(sets[len(stock) :]):
        similarities = [jaccard(asked, other) for other in sets[: len(stock)]]
        best = max(similarities)
        assert (query in got) == (best >= 0.7)
        if query in got:
            assert got[query][1] == best == similarities[got[query][0]]
    assert got[200][1] == 1.0


def test_an_index_answers_many_batches_of_queries(texts: list[str]) -> None:
    stock = Index()
    stock.add(texts[600:])
    batches = [stock.matches(texts[begin : begin + 300], 0.7) for begin in (0, 300)]
    whole = matches(texts[:600], texts[600:], 0.7)
    assert np.concatenate([batches[0].queries, batches[1].queries + 300]).tolist() == whole.queries.tolist()
    assert np.concatenate([batch.partners for batch in batches]).tolist() == whole.partners.tolist()
    assert len(stock) == 600


@settings(max_examples=50)
@given(st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=14).map(" ".join), max_size=30))
def test_no_text_joins_a_cluster_without_a_partner_alike_enough(texts: list[str]) -> None:
    found = cluster(texts, threshold=0.6)
    truth = components(len(texts), list(all_pairs(texts, 0.6)))
    assert all(truth[i] == truth[root] for i, root in enumerate(found.roots.tolist()))
    first = {text: texts.index(text) for text in texts}
    assert all(found.roots[i] == found.roots[first[text]] for i, text in enumerate(texts))


def test_bands_are_shared_as_often_as_theory_says() -> None:
    rng = random.Random(11)
    texts = []
    for _ in range(400):
        words = rng.sample(VOCABULARY, 60)
        texts += [" ".join(words[:50]), " ".join(words[10:])]
    found = shingle(texts, 1)
    keys = signatures(found.hashes, found.offsets, permutations(128, 1, seed=4))
    shared = (keys[:, 0::2] == keys[:, 1::2]).mean()
    assert shared == pytest.approx(40 / 60, abs=0.01)


def test_nothing_in_gives_nothing_out() -> None:
    assert len(cluster([])) == 0
    assert cluster([""]).roots.tolist() == [0]
    assert len(matches([], ["a"]).queries) == 0
    assert len(matches(["a"], []).queries) == 0


def test_slices_of_arrow_columns_and_broken_bytes_are_read_within_their_bounds() -> None:
    whole = pa.array(["skip me", "one two", None, "three"])
    assert exact_keys(whole.slice(1, 3)).tolist() == exact_keys(["one two", "", "three"]).tolist()
    bounds, data = pa.py_buffer(np.array([0, 2, 4], "i4")), pa.py_buffer(b"a\xe4b\xf0")
    broken = pa.Array.from_buffers(pa.string(), 2, [None, bounds, data])
    assert len(shingle(broken)) == 2
