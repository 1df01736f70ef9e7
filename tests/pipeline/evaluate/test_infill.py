"""Held-out documents as rows whose middle is scored: both orders, an end, cut documents, files of repositories."""

import shutil

import pytest
from datatrove.data import Document
from tokenizers import AddedToken, Tokenizer

from perdure.pipeline.core.hashes import hash_of
from perdure.pipeline.core.manifest import finish
from perdure.pipeline.core.tokenizers import load_tokenizer
from perdure.pipeline.data.context import StageContext
from perdure.pipeline.data.fim import Infill, boundaries, draws, parts_of, restored
from perdure.pipeline.data.metadata import DocumentForm
from perdure.pipeline.data.repositories import FILES, SPLIT, Repositories
from perdure.pipeline.data.shard import ShardWriter
from perdure.pipeline.data.tokenizer.train import build_tokenizer
from perdure.pipeline.evaluate.infill import VIEW, infill_rows, infilled_sources
from perdure.pipeline.recipe import HuggingFaceTokenizer
from tests.chats import chat_tokenizer
from tests.tiny import tiny_recipe

SPELLED = ("<PRE>", "<SUF>", "<MID>", "<EOT>", "<REPO>", "<FILE>")
TEXTS = [f"def function_{number}(argument):\n    return argument * {number}\n" for number in range(30)]
LONG = "é" * 400


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A token a byte, and the sentinels."""
    directory = tmp_path_factory.mktemp("tokenizer")
    path = chat_tokenizer(directory) / "tokenizer.json"
    loaded = Tokenizer.from_file(str(path))
    loaded.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPELLED])
    loaded.save(str(path))
    context = StageContext(directory, 1, lambda: None)
    spec = HuggingFaceTokenizer(type="huggingface", path=directory)
    return build_tokenizer(context, spec, directory / "tokenizer@00000000", {}, {})


def rows(tmp_path, tokenizer, documents, spm=0.0, sentinels=3, form=None, **changes):
    """Rows of documents that are all held out, and the ids of the sentinels."""
    data = tmp_path / "data"
    data.mkdir()
    ShardWriter(data, tokenizer, None, None, 0.999999, 0.999999, form or DocumentForm()).run(iter(documents))
    shutil.copy(data / "docs.00000.parquet", data / "docs.parquet")
    ids = [load_tokenizer(tokenizer).tokenizer.token_to_id(token) for token in SPELLED]
    marks = {}
    if form:
        own = form.repositories
        marks = {
            "repository": {"sentinels": ids[4:], "file_end": own.file_end, "path_inside": own.path_inside}
        }
    finish(data, {"counts": {}, "fim": {"sentinels": ids[:sentinels], "spm": spm}} | marks)
    recipe = tiny_recipe(tmp_path, training__seq_length=256, **{"evaluation__max_tokens": 100_000} | changes)
    return infill_rows(recipe, "a", data, tokenizer), ids


def texts(tokenizer, found, ids):
    """The texts that rows were made of."""
    loaded = load_tokenizer(tokenizer).tokenizer
    return [loaded.decode(restored(row.tokens, ids)) for row in found]


@pytest.mark.parametrize(("spm", "sentinels"), [(0.5, 3), (0.6, 3), (0.5, 4), (1.0, 4)])
def test_the_middle_is_last_and_scored(tmp_path, tokenizer, spm, sentinels):
    documents = [Document(text, str(number)) for number, text in enumerate(TEXTS)]
    found, ids = rows(tmp_path, tokenizer, documents, spm, sentinels)
    assert set(texts(tokenizer, found, ids[:sentinels])) <= set(TEXTS) and len(found) > 25
    for row in found:
        assert row.scored == row.num_bytes > 0 and ids[3] not in row.tokens
        middle = row.tokens.index(ids[2])
        if spm > 0.5:
            assert row.tokens[:2] == ids[:2] and row.scored <= len(row.tokens) - middle - 1
        else:
            assert row.tokens[0] == ids[0] and row.scored == len(row.tokens) - middle - 1


def test_a_long_document_is_cut_to_its_beginning(tmp_path, tokenizer):
    found, ids = rows(tmp_path, tokenizer, [Document(LONG, "long")])
    assert [len(row.tokens) for row in found] in ([255], [256])
    (text,) = texts(tokenizer, found, ids[:3])
    assert set(text) == {"é"} and LONG.startswith(text)


def test_a_character_that_stands_for_others_is_text(tmp_path, tokenizer):
    """Only what was cut is left out: U+FFFD can stand in a text."""
    long = "\ufffd" * 400
    found, ids = rows(tmp_path, tokenizer, [Document(long, "long")])
    assert [len(row.tokens) for row in found] in ([255], [256])
    (text,) = texts(tokenizer, found, ids[:3])
    assert len(text) == len(found[0].tokens[:-3]) // 3 and long.startswith(text)


@pytest.mark.parametrize("names", [1.0, 0.0])
@pytest.mark.parametrize("family", ["starcoder", "qwen"])
def test_files_of_a_repository_are_rows_as_in_training(tmp_path, tokenizer, family, names):
    """Behind the token of a file; its path is whole, before the prefix or at its beginning."""
    files = [(str(number), f"{number}.py", text.strip()) for number, text in enumerate(TEXTS[:9])]
    loaded = load_tokenizer(tokenizer).tokenizer
    ids = [loaded.token_to_id(token) for token in SPELLED]
    end = "\n" if family == "qwen" else ""
    own = Repositories(("repo", "path"), "given", names, tuple(ids[4:]), end, end, not end, 1, "a")
    document = Document("\n".join(TEXTS[:9]), "me/it", metadata={FILES: files, SPLIT: "heldout"})
    form = DocumentForm(repositories=own)
    found, ids = rows(tmp_path, tokenizer, [document], form=form)
    assert len(found) > 5
    infill, before = Infill(1.0, 0.0, tuple(ids[:3]), 1, "a"), {}
    for _, path, text in files:
        places = boundaries(draws(0, VIEW, hash_of(text))[2:], len(text + end))
        path = f"{path}\n" if names else ""
        outside, inside = ("", path) if own.path_inside else (path, "")
        cut = parts_of(text + end, places, False, infill.sentinels, inside)
        parts = [ids[5], outside, *cut]
        before[text] = [
            t for part in parts for t in ([part] if isinstance(part, int) else loaded.encode(part).ids)
        ]
    assert all(row.tokens in before.values() for row in found)
    assert len({tuple(row.tokens) for row in found}) == len(found)


def test_no_order_of_documents_takes_part(tmp_path, tokenizer):
    """All texts are rows where all are measured left to right, though sentinels come to them; of more, the same ones."""
    documents = [Document(text, str(number)) for number, text in enumerate(TEXTS)]
    total = sum(len(text) + 1 for text in TEXTS)
    everything, some = [], []
    for number, order in enumerate((documents, documents[::-1])):
        for limit, found in ((total, everything), (100_000, everything), (total // 2, some)):
            place = tmp_path / f"{number}.{limit}"
            place.mkdir()
            changes = {"evaluation__max_tokens": limit}
            found.append([row.tokens for row in rows(place, tokenizer, order, **changes)[0]])
    assert all(found == everything[0] for found in everything) and len(everything[0]) > 25
    assert some[0] == some[1] and 10 < len(some[0]) < 20


def test_a_long_document_leaves_room_by_its_hash(tmp_path, tokenizer):
    """Pieces of long documents are measured left to right, of middles the whole: the first by hash fit."""
    documents = [Document(f"{number}" * 200, str(number)) for number in range(10, 30)]
    found = []
    for order in (documents, documents[::-1]):
        place = tmp_path / f"{len(found)}"
        place.mkdir()
        found.append([row.tokens for row in rows(place, tokenizer, order, evaluation__max_tokens=1500)[0]])
    assert found[0] == found[1] and 3 <= len(found[0]) <= 1500 // 256


def test_no_more_is_read_than_is_asked_for(tmp_path, tokenizer):
    documents = [Document(text, str(number)) for number, text in enumerate(TEXTS)]
    found, _ = rows(tmp_path, tokenizer, documents, evaluation__max_tokens=200)
    assert 1 <= len(found) <= 4 and sum(len(row.tokens) - 3 + 1 for row in found) <= 200


def test_how_middles_are_cut_is_known_before_there_is_data(tmp_path):
    known = [
        infilled_sources(tiny_recipe(tmp_path, sources__a__fim=fim)).get("a")
        for fim in ({}, {"rate": 0.1}, {"sentinels": "qwen"}, {"spm": 1}, {"rate": 0})
    ]
    assert known[0] == known[1] and len({*known}) == 4 and known[4] is None
