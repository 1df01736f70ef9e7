"""Repositories as documents: their strings, whole whatever task read their files, held out file by file."""

import json
import random
from collections import Counter, defaultdict
from itertools import pairwise

import pytest
from datatrove.data import Document

from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.shards import open_shard
from perdure.pipeline.core.tokenizers import load_tokenizer
from perdure.pipeline.data.cleaning.drops import heavy_drops
from perdure.pipeline.data.cleaning.normalise import is_heldout, text_hash
from perdure.pipeline.data.fim import Infill, rendering, restored
from perdure.pipeline.data.leaks import texts as shard_texts
from perdure.pipeline.data.repositories import FILES, Repositories, render_repository
from perdure.pipeline.data.stage import run_data
from perdure.pipeline.data.summaries import source_summary
from tests.pipeline.data.made import documents
from tests.pipeline.data.texts import random_text, write_jsonl

STARCODER = Repositories(("repo", "path"), "given", 1.0, (-8, -9), "", "", True, 1, "code")
QWEN = Repositories(("repo", "path"), "given", 1.0, (-8, -9), "\n", "\n", False, 1, "code")
INFILL = Infill(1.0, 0.0, (-1, -2, -3), 1, "code")


FILE = Document("", "me/it", metadata={FILES: [("1", "a.py", "x = 1"), ("2", "b.py", "import a")]})
"""A repository of two files."""


def test_the_strings_of_starcoder_and_qwen():
    assert render_repository(STARCODER, None, FILE).parts == [
        -8, "me/it", -9, "a.py\nx = 1", -9, "b.py\nimport a",
    ]  # fmt: skip
    assert render_repository(QWEN, None, FILE).parts == [
        -8, "me/it\n", -9, "a.py\n", "x = 1\n", -9, "b.py\n", "import a\n",
    ]  # fmt: skip
    nameless = Repositories(**vars(STARCODER) | {"names": 0.0})
    assert render_repository(nameless, None, FILE).parts == [-9, "x = 1", -9, "import a"]


@pytest.mark.parametrize("form", [STARCODER, QWEN])
def test_every_file_of_a_chosen_repository_can_be_filled_in(form):
    """With its path inside for StarCoder2, behind the path for Qwen2.5-Coder; put in order again it is the same text."""
    found = render_repository(form, INFILL, FILE)
    assert (found.psm, found.spm) == (2, 0)
    behind = found.parts[found.parts.index(-9) + 1]
    assert behind == (-1 if form is STARCODER else "a.py\n")

    def tokens(parts):
        return [token for part in parts for token in ([part] if isinstance(part, int) else map(ord, part))]

    plain = tokens(render_repository(form, None, FILE).parts)
    assert restored(tokens(found.parts), INFILL.sentinels, form.sentinels) == plain


@pytest.mark.parametrize("form", [STARCODER, QWEN])
@pytest.mark.parametrize("spm", [0.0, 1.0])
def test_a_path_is_never_cut(form, spm):
    """StarCoder2's begins the prefix, Qwen2.5-Coder's stands before it; the places are those of the code alone."""
    files = [(f"{number}", f"src/pkg/module_{number}.py", f"x = {number}") for number in range(100)]
    infill = Infill(1.0, spm, INFILL.sentinels, 1, "code")
    found = render_repository(form, infill, Document("", "me/it", metadata={FILES: files}))
    begins = [place for place, part in enumerate(found.parts) if part == -9]
    assert found.psm + found.spm == len(begins) == 100
    for begin, (identifier, path, code) in zip(begins, files, strict=True):
        alone = rendering(infill, identifier, code + form.file_end).parts
        prefix = alone.index(-3) + 1 if spm else 1
        expected = list(alone)
        if form is STARCODER:
            expected[prefix] = f"{path}\n{alone[prefix]}"
        else:
            expected = [f"{path}\n", *alone]
        assert found.parts[begin + 1 : begin + 1 + len(expected)] == expected


def test_shares_of_names_and_of_files_that_are_filled_in():
    """As in StarCoder2: half of the repositories are chosen, and half of the files of these."""
    form, infill = (
        Repositories(**vars(STARCODER) | {"names": 0.5}),
        Infill(0.5, 0.5, (-1, -2, -3), 1, "code"),
    )
    named = chosen = files = 0
    for number in range(1000):
        document = type(
            "Made",
            (),
            {"id": f"r{number}", "metadata": {FILES: [(f"{number}/{k}", "p", "text") for k in range(8)]}},
        )
        found = render_repository(form, infill, document)
        named += found.parts[0] == -8
        chosen += found.psm + found.spm > 0
        files += found.psm + found.spm
    assert abs(named - 500) < 50 and abs(chosen - 500) < 50 and abs(files - 2000) < 250


@pytest.fixture(scope="module")
def rows():
    """Files of 12 repositories, one a number, those of each scattered; a few without repository or path; a copy elsewhere."""
    made = [
        {
            "id": f"{number}",
            "repo": number % 12 if number % 12 == 7 else f"owner/repo{number % 12}",
            "path": f"pkg/m{number}.py",
            "text": f"import m{number + 12}\n# {random_text(number)}",
        }
        for number in range(96)
    ]
    bad = [
        {"id": "n", "path": "a.py", "text": random_text(900)},
        {"id": "p", "repo": "r", "path": 3, "text": random_text(901)},
        {"id": "t", "repo": True, "path": "a.py", "text": random_text(902)},
    ]
    copy = made[5] | {"id": "copy", "repo": "owner/copy"}
    made = [*made, copy, *bad]
    random.Random(3).shuffle(made)
    return made


READER = {"type": "jsonl", "repository_field": "repo", "path_field": "path"}


def made_of(recipe):
    directory = run_data(recipe)["code"]
    return directory, {(row["id"], row["split"]): row for row in documents(directory)}


def test_a_repository_is_one_document_whatever_task_read_its_files(make_recipe, tmp_path, rows):
    path = write_jsonl(tmp_path / "in" / "code.jsonl", rows)
    options = {
        "repository": {"names": 1.0, "sentinels": "starcoder"},
        "fim": {"rate": 1.0, "sentinels": "qwen"},
    }
    found = []
    for tasks in (1, 3):
        recipe = make_recipe(
            {"code": READER | {"path": str(path)}}, out=tmp_path / f"out{tasks}", tasks=tasks, **options
        )
        directory, made = made_of(recipe)
        tokenizer = load_tokenizer(next((tmp_path / f"out{tasks}").glob("tokenizer@*"))).tokenizer
        sentinels = read_json(directory / "manifest.json")["fim"]["sentinels"]
        breaks = read_json(directory / "manifest.json")["repository"]["sentinels"]
        found.append({key: (row["text"], row["metadata"], row["num_tokens"]) for key, row in made.items()})
    assert [tokenizer.id_to_token(number) for number in breaks] == ["<repo_name>", "<file_sep>"]
    assert {key: row[1] for key, row in found[0].items()} == {key: row[1] for key, row in found[1].items()}
    texts = {row["id"]: row for row in rows}
    gone = "5" if any("copy" in json.loads(row[1])["files"] for row in found[1].values()) else "copy"
    expected = defaultdict(list)
    for row in rows:
        if row["id"] not in ("n", "p", "t", gone):
            split = "heldout" if is_heldout(text_hash(row["text"].strip()), 0.2) else "train"
            expected[str(row["repo"]), split].append(row["id"])
    assert {key: json.loads(row[1])["files"] for key, row in found[1].items()} == expected
    for (name, split), row in made.items():
        ids = json.loads(row["metadata"])["files"]
        plain = f"{name}" + "".join(f"{texts[i]['path']}\n{texts[i]['text'].strip()}" for i in ids)
        assert row["num_bytes"] == len("\n".join(texts[i]["text"].strip() for i in ids).encode())
        if split == "heldout":
            assert row["text"] == plain  # decoded without special tokens
    counts = read_json(directory / "manifest.json")["counts"]
    assert counts["documents"]["dropped"] == {
        "exact_duplicate": 1, "joined": 96 - len(made), "no_path": 1, "no_repository": 2,
    }  # fmt: skip
    assert not any(drop["step"] == "repository" for drop in heavy_drops(counts, directory))
    assert f"{96 - len(made)} files joined others" in source_summary("code", counts)
    train = counts["train"]["documents"]
    assert counts["fim"]["documents"] == train and counts["fim"]["psm"] == sum(
        len(json.loads(row["metadata"])["files"]) for (_, split), row in made.items() if split == "train"
    )
    told, fim = source_summary("code", counts), counts["fim"]
    assert (
        f"fill in the middle: {fim['psm']} files in {train} of {train} training repositories ({fim['psm']} PSM, 0 SPM), "
        f"sentinels are {3 * fim['psm']} of {counts['train']['tokens']:,} tokens, those of repositories aside"
        in told
    )
    shard, place = open_shard(directory / "00000"), next(directory.parents[1].glob("tokenizer@*"))
    searched = dict(shard_texts(shard, place, range(len(shard.lengths)), (sentinels, breaks)))
    trained = [row for (_, split), row in made.items() if split == "train" and row["shard"] == 0]
    for row in trained:
        for identifier in json.loads(row["metadata"])["files"]:
            text = f"<file_sep>{texts[identifier]['path']}\n{texts[identifier]['text'].strip()}"
            assert text in searched[row["sequence"]]


def test_files_stand_behind_what_they_import(make_recipe, tmp_path, rows):
    """A module imports the next of its repository, so that they come in falling order; a trained tokenizer has the tokens."""
    path = write_jsonl(tmp_path / "in" / "code.jsonl", rows)
    repository = {"order": "dependencies", "names": 0, "sentinels": "qwen"}
    directory, made = made_of(make_recipe({"code": READER | {"path": str(path)}}, repository=repository))
    orders = [[int(i) for i in json.loads(row["metadata"])["files"] if i != "copy"] for row in made.values()]
    consecutive = Counter(a - b for order in orders for a, b in pairwise(order))
    assert consecutive[12] > 40 and consecutive[-12] == 0
    manifest = read_json(directory / "manifest.json")
    assert manifest["counts"]["unparsable"] == 0 and "fim" not in manifest
    assert manifest["repository"]["sentinels"] == [1, 2] and manifest["repository"]["file_end"] == "\n"
