"""Texts and cleaning that version 0.1 answered wrongly, through the command line as their user would meet them."""

import random
import re
from pathlib import Path

import pytest
import yaml
from pyarrow import parquet

from perdure.pipeline.core.files import read_json
from tests.cases.small import english, fluent, write_lines, write_tokenizer

pytestmark = pytest.mark.slow


def test_05_characters_without_tokens(case):
    write_tokenizer(case.directory / "tok", byte_level=False)
    texts = [english(number) for number in range(100)] + [
        "Приветмирэтодлинныйтекст" * 12,
        "日本語のテキストです" * 30,
    ]
    write_lines(case.directory / "in" / "a.jsonl", texts)
    said = case.data()
    assert "102 documents in, 100 out" in said
    assert re.search(r"2 \w*(no|without|lost)\w*_?\w*", said), said
    assert all(row["num_tokens"] > 5 for row in case.documents())


@pytest.mark.parametrize(
    ("written", "steps"), [("0100", 3), ("1:40", None), ("0o100", None), ("0x40", None), ("1_00", 3)]
)
def test_16_numbers_that_yaml_reads_in_its_own_way(tokenized, written, steps):
    text = yaml.safe_dump(tokenized.tree | {"versions": tokenized.tree["versions"]}, sort_keys=False)
    (tokenized.directory / "r.yaml").write_text(
        text.replace("seq_length: 64", f"seq_length: {written}").replace("tokens: 256", "tokens: 1200")
    )
    status, out, err = tokenized.perdure("check")
    if status:
        assert (status, "seq_length" in err and "Traceback" not in err) == (2, True)
    else:  # as people read it
        assert steps is not None and re.search(rf"^ *{steps} steps,", out, re.MULTILINE)


# ------------------------------------------------------------------------------- what is measured is what is held out


def test_25_held_out_text_beyond_the_first_documents(case):
    rng = random.Random(3)
    rows = [english(number, rng.randint(40, 400)) for number in range(250)]
    rows += [fluent("ja", number, rng.randint(5, 30)) for number in range(250)]
    write_lines(case.directory / "in" / "a.jsonl", rows)
    case.tree["sources"]["a"] |= {"clean": [{"type": "language"}], "heldout_fraction": 0.3}
    case.tree["tokenizer"] = {"type": "train", "vocab_size": 2048, "sources": ["a"]}
    case.tree["evaluation"]["max_tokens"] = 5000
    status, _, err = case.perdure("run")
    assert status == 0, err
    held = [row for row in case.documents() if row["split"] == "heldout"]
    measured = parquet.read_table("out/versions/v/eval_documents.parquet").to_pylist()
    shares = [
        sum(row[tokens] for row in rows if row["language"] == "ja") / sum(row[tokens] for row in rows)
        for rows, tokens in ((held, "num_tokens"), (measured, "tokens"))
    ]
    assert shares[1] == pytest.approx(shares[0], abs=0.05)
    assert 4000 < read_json(Path("out/versions/v/eval.json"))["domains"]["a"]["tokens"] <= 5500


# --------------------------------------------------------------------------------------------------- every script


def test_21_a_language_whose_splitter_is_missing_or_unknown(case):
    write_lines(case.directory / "in" / "a.jsonl", [fluent("ja", number, 12) for number in range(60)])
    write_tokenizer(case.directory / "tok")
    case.tree["sources"]["a"]["clean"] = [{"type": "gopher_quality", "language": "jpn", "min_stop_words": 0}]
    status, _, err = case.perdure("check")
    if status == 0:
        assert "60 documents in, 60 out" in case.data()
    else:
        assert status == 2 and "jpn" in err and "pip install" in err


@pytest.mark.parametrize("code", ["zh", "zho"])
def test_22_filters_where_words_have_no_blanks_between_them(case, code):
    write_lines(case.directory / "in" / "a.jsonl", [fluent("zh", number, 30) for number in range(200)])
    write_tokenizer(case.directory / "tok")
    case.tree["sources"]["a"]["clean"] = [{"type": "gopher_quality", "language": code, "min_stop_words": 0}]
    status, _, err = case.perdure("check")
    assert status == 0, err
    kept = int(re.search(r"200 documents in, (\d+) out", case.data())[1])
    assert kept >= 190


def test_24_an_everyday_phrase_is_no_contamination(case):
    write_lines(case.directory / "in" / "a.jsonl", [fluent("ja", number, 8) for number in range(400)])
    question = "駅前の新しい店では毎年調べています。町の図書館は何時に開きますか"
    write_lines(case.directory / "eval.jsonl", [question])
    write_tokenizer(case.directory / "tok")
    case.tree["sources"]["a"]["clean"] = [{"type": "decontaminate", "files": ["eval.jsonl"]}]
    assert "400 documents in, 400 out" in case.data()
