"""Documents to be filled in the middle: strings, shares, and bytes that depend on nothing but seed, source and document."""

import json
import random
from collections import Counter

import pyarrow.parquet as pq
import pytest
from datatrove.data import Document
from tokenizers import AddedToken, Tokenizer

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.shards import open_shard
from perdure.pipeline.core.tokenizers import load_tokenizer
from perdure.pipeline.data.context import StageContext
from perdure.pipeline.data.fim import (
    SENTINELS,
    Infill,
    boundaries,
    cut_apart,
    draws,
    parts_of,
    rendering,
    restored,
    sentinel_ids,
    unusable,
)
from perdure.pipeline.data.leaks import texts as shard_texts
from perdure.pipeline.data.metadata import DocumentForm
from perdure.pipeline.data.shard import ShardWriter
from perdure.pipeline.data.stage import run_data
from perdure.pipeline.data.summaries import source_summary
from perdure.pipeline.data.tokenizer.directory import SEPARATOR
from perdure.pipeline.data.tokenizer.train import build_tokenizer
from perdure.pipeline.recipe import FillInTheMiddle, HuggingFaceTokenizer
from tests.chats import chat_tokenizer
from tests.pipeline.data.texts import random_text

IDS = (-1, -2, -3)
STARCODER = SENTINELS["starcoder"]


def infill(rate: float = 0.5, spm: float = 0.5, sentinels: tuple[int, ...] = IDS, **other) -> Infill:
    return Infill(**{"rate": rate, "spm": spm, "sentinels": sentinels, "seed": 1, "view": "code"} | other)


def letters(parts: list) -> list[int]:
    """Parts as tokens, one a character."""
    return [token for part in parts for token in ([part] if isinstance(part, int) else map(ord, part))]


def test_the_two_orders():
    assert parts_of("abcdef", (2, 4), False, IDS) == [-1, "ab", -2, "ef", -3, "cd"]
    spm = parts_of("abcdef", (2, 4), True, IDS)
    assert letters(spm) == [-1, -2, *map(ord, "ef"), -3, *map(ord, "abcd")]
    assert parts_of("abcdef", (2, 4), False, (*IDS, -4)) == [-1, "ab", -2, "ef", -3, "cd", -4]
    assert SENTINELS["deepseek"] == ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>")
    assert SENTINELS["qwen"] == ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")


@pytest.mark.parametrize("places", [(0, 0), (0, 3), (3, 3), (0, 1), (2, 3)])
@pytest.mark.parametrize("spm", [False, True])
def test_empty_parts_are_valid(places, spm):
    parts = parts_of("abc", places, spm, IDS)
    assert sorted(part for part in parts if isinstance(part, int)) == [-3, -2, -1]
    assert restored(letters(parts), IDS) == [97, 98, 99]


def test_ten_thousand_documents_come_back():
    """Any characters, both orders, with and without an end, alone and one behind the other; half are transformed."""
    made = random.Random(5)
    counts: Counter[str] = Counter()
    lowest, highest = 1.0, 0.0
    for number in range(10_000):
        points = (
            made.choice((made.randrange(32, 0x3000), made.randrange(0x10000, 0x11000)))
            for _ in range(1 + number % 30)
        )
        text = "".join(map(chr, points))
        sentinels = (IDS, (*IDS, -4))[number % 2]
        found = rendering(infill(sentinels=sentinels), f"file {number}", text)
        kinds = [part for part in found.parts if isinstance(part, int)]
        assert sorted(kinds, reverse=True) == (list(sentinels) if found.psm or found.spm else [])
        assert restored(letters(found.parts), sentinels) == [*map(ord, text)]
        counts["psm"] += found.psm
        counts["spm"] += found.spm
        begin, stop = boundaries(draws(1, "code", f"file {number}")[2:], 999)
        assert 0 <= begin <= stop <= 999
        lowest, highest = min(lowest, begin), max(highest, stop)
    assert abs(counts["psm"] + counts["spm"] - 5000) <= 150 and abs(counts["spm"] - 2500) <= 130
    assert (lowest, highest) == (0, 999)


def test_draws_depend_on_seed_source_and_document_alone():
    first = draws(1, "code", "a")
    assert first == draws(1, "code", "a")
    assert (
        len({*map(tuple, (first, draws(2, "code", "a"), draws(1, "other", "a"), draws(1, "code", "b")))}) == 4
    )
    assert (
        rendering(infill(rate=1, spm=1), "a", "xyz").spm and rendering(infill(rate=1, spm=0), "a", "xyz").psm
    )
    assert rendering(infill(rate=1), "a", "") == ([""], 0, 0)


def test_spellings_are_cut_apart():
    assert cut_apart("a<fim_prefix>b<fim_<fim_middle>", STARCODER) == [
        "a<",
        "fim_prefix>b<fim_<",
        "fim_middle>",
    ]
    assert cut_apart("aaa", ("aa",)) == ["a", "a", "a"]


# --------------------------------------------------------------------------------- through the stage


SPELLED = "x = '<fim_prefix>' + '<fim_suffix>'  # text, not tokens"


def with_tokens(directory, tokens, special):
    """A tokenizer with a token a byte, and added tokens."""
    path = chat_tokenizer(directory) / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    added = [AddedToken(token, special=special, normalized=not special) for token in tokens]
    (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(added)
    tokenizer.save(str(path))
    return {"type": "huggingface", "path": str(directory)}


@pytest.fixture(scope="module")
def rows():
    texts = [random_text(seed) for seed in range(60)] + [f"{SPELLED} {number}" for number in range(8)]
    return [Document(text, str(number)) for number, text in enumerate(texts)]


def built(directory, spec):
    """A run's tokenizer."""
    recipe = {"type": "huggingface", "path": spec["path"]}
    context = StageContext(directory, 1, lambda: None)
    return build_tokenizer(context, HuggingFaceTokenizer(**recipe), directory / "tokenizer@00000000", {}, {})


def write(directory, tokenizer, tasks, form):
    """Shards of documents by task; the counts of all."""
    (directory / "data").mkdir(parents=True)
    counts = Counter()
    for rank, documents in enumerate(tasks):
        writer = ShardWriter(directory / "data", tokenizer, None, None, 0.2, 0.2, form)
        writer.run(iter(documents), rank, len(tasks))
        counts.update({key: stat.total for key, stat in writer.stats.stats.items()})
    return counts


def written(directory):
    """Tokens of the documents in shards, by id; and which of them are held out."""
    found, heldout = {}, set()
    for table in sorted((directory / "data").glob("docs.*.parquet")):
        for row in pq.read_table(table).to_pylist():
            prefix = "heldout." if row["split"] == "heldout" else ""
            shard = open_shard(directory / "data" / f"{prefix}{row['shard']:05d}")
            start = shard.start(row["sequence"])
            found[row["id"]] = shard.values[start : start + row["num_tokens"]].tolist()
            heldout |= {row["id"]} if prefix else set()
    return found, heldout


@pytest.mark.parametrize("special", [True, False])
def test_no_prefix_becomes_a_sentinel(tmp_path, special):
    tokenizer = built(tmp_path, with_tokens(tmp_path / "tokenizer", STARCODER, special))
    loaded = load_tokenizer(tokenizer).tokenizer
    ids = sentinel_ids(loaded, STARCODER, SEPARATOR, "here")
    documents = [Document(random_text(seed), str(seed), metadata={"title": SPELLED}) for seed in range(30)]
    form = DocumentForm(infill=infill(rate=1e-9, sentinels=ids), prefix="{title}: ")
    write(tmp_path, tokenizer, [documents], form)
    found, _ = written(tmp_path)
    assert len(found) == len(documents)
    for document in documents:
        tokens = found[document.id]
        assert not set(ids) & set(tokens)
        assert loaded.decode(tokens[:-1]) == f"{SPELLED}: {document.text}"


@pytest.mark.parametrize("special", [True, False])
def test_training_documents_alone_are_transformed(tmp_path, rows, special):
    """Tokens that are special, and tokens that are always matched, as Qwen's are: no text becomes one."""
    tokenizer = built(tmp_path, with_tokens(tmp_path / "tokenizer", STARCODER, special))
    loaded = load_tokenizer(tokenizer).tokenizer
    ids = sentinel_ids(loaded, STARCODER, SEPARATOR, "here")
    counts = write(tmp_path, tokenizer, [rows], DocumentForm(infill=infill(rate=1.0, sentinels=ids)))
    found, heldout = written(tmp_path)
    assert 3 < len(heldout) < 30 and len(found) == len(rows)
    for document in rows:
        tokens = found[document.id]
        assert [tokens.count(number) for number in ids] == ([0] * 3 if document.id in heldout else [1] * 3)
        assert loaded.decode(restored(tokens[:-1], ids)) == document.text
    trained = len(rows) - len(heldout)
    assert counts["fim_documents"] == counts["fim_psm"] + counts["fim_spm"] == trained
    assert counts["fim_psm"] and counts["fim_spm"] and counts["fim_tokens"] == 3 * trained
    assert counts["train_tokens"] == sum(len(found[row.id]) for row in rows if row.id not in heldout)
    shard = open_shard(tmp_path / "data" / "00000")
    searched = shard_texts(shard, tokenizer, range(len(shard.lengths)), (ids, ()))
    assert {text for _, text in searched} == {row.text for row in rows if row.id not in heldout}


def test_bytes_do_not_depend_on_how_the_work_is_divided(tmp_path, rows):
    tokenizer = built(tmp_path, with_tokens(tmp_path / "tokenizer", STARCODER, True))
    form = DocumentForm(
        infill=infill(
            sentinels=sentinel_ids(load_tokenizer(tokenizer).tokenizer, STARCODER, SEPARATOR, "here")
        )
    )
    made = []
    for number, tasks in enumerate([[rows], [rows[::2], rows[1::2]], [rows[40:], [], rows[:40]]]):
        write(tmp_path / str(number), tokenizer, tasks, form)
        made.append(written(tmp_path / str(number)))
    assert made[0] == made[1] == made[2]
    found, heldout = made[0]
    transformed = sum(form.infill.sentinels[0] in tokens for tokens in found.values())
    assert 0.3 < transformed / (len(rows) - len(heldout)) < 0.7


def test_a_text_that_is_a_sentinel_however_it_is_cut_is_dropped(tmp_path, rows):
    """A tokenizer that lower-cases before it looks for added tokens."""
    spec = with_tokens(tmp_path / "tokenizer", STARCODER, False)
    path = tmp_path / "tokenizer" / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"normalizer": {"type": "Lowercase"}}))
    tokenizer = built(tmp_path, spec)
    form = DocumentForm(
        infill=infill(
            rate=1e-9,
            sentinels=sentinel_ids(load_tokenizer(tokenizer).tokenizer, STARCODER, SEPARATOR, "here"),
        )
    )
    capitals = [Document(f"<FIM_PREFIX> {number}", f"capitals {number}") for number in range(9)]
    counts = write(tmp_path, tokenizer, [[*rows, *capitals]], form)
    dropped = counts["special_tokens"]
    assert dropped == 9 and counts["train_documents"] + counts["heldout_documents"] == len(rows)


def test_the_stage_transforms_and_rate_zero_is_as_no_fim(make_recipe, tmp_path, texts):
    """A tokenizer that is trained gets the sentinels; what is trained without `fim` is what rate 0 gives."""
    recipe = make_recipe({"code": texts}, fim={"rate": 1.0, "sentinels": "qwen"})
    directory = run_data(recipe)["code"]
    tokenizer = load_tokenizer(next((tmp_path / "out").glob("tokenizer@*"))).tokenizer
    assert [tokenizer.id_to_token(number) for number in (1, 2, 3)] == list(SENTINELS["qwen"])
    manifest = read_json(directory / "manifest.json")
    settings = {"rate": 1.0, "spm": 0.0, "sentinels": [1, 2, 3], "seed": recipe.seed, "view": "code"}
    assert manifest["fim"] == settings
    trained = manifest["counts"]["train"]["documents"]
    expected = {"documents": trained, "psm": trained, "spm": 0, "tokens": 3 * trained}
    assert manifest["counts"]["fim"] == expected
    assert f"fill in the middle: {trained} of {trained} training" in source_summary(
        "code", manifest["counts"]
    )

    plain = run_data(make_recipe({"code": texts}))["code"]
    none = make_recipe({"code": texts}, fim={"rate": 0, "spm": 0.7, "sentinels": "qwen"})
    assert "fim" not in none.model_dump()["sources"]["code"]
    assert plain != directory and run_data(none)["code"] == plain


def test_sentinels_that_are_several_tokens_are_refused(tmp_path):
    path = tmp_path / "tokenizer.json"
    with_tokens(tmp_path, STARCODER[:2], True)
    with pytest.raises(
        PerdureError, match=r"^here: the tokenizer has no token '<fim_middle>', and makes 12 of it"
    ):
        sentinel_ids(Tokenizer.from_file(str(path)), STARCODER, SEPARATOR, "here")
    tree = json.loads(path.read_text())
    tree["pre_tokenizer"]["add_prefix_space"] = True
    path.write_text(json.dumps(tree))
    with pytest.raises(PerdureError, match=r"^here: '<fim_suffix>' ends every document"):
        sentinel_ids(Tokenizer.from_file(str(path)), STARCODER, "<fim_suffix>", "here")
    assert "a blank before every text" in str(unusable(Tokenizer.from_file(str(path)), STARCODER[:2]))


def test_sentinels_are_three_or_four_different_strings():
    assert FillInTheMiddle(sentinels=["<PRE>", "<SUF>", "<MID>", "<EOT>"]).sentinels[3] == "<EOT>"
    for wrong in (["<a>", "<b>"], ["<a>", "<b>", "<b>"], ["<a>"] * 5, "codex", ["a", "<b>", "<c>"]):
        with pytest.raises(ValueError, match="sentinels"):
            FillInTheMiddle(sentinels=wrong)
