"""Cleaning: what each step drops and why, and that nothing vanishes uncounted, whatever the steps and their order."""

import json
import random

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.data.cleaning import clean as clean_module
from perdure.pipeline.data.cleaning.counted import EXAMPLES
from perdure.pipeline.data.cleaning.normalise import count_words, text_hash
from perdure.pipeline.data.cleaning.signatures import Folder
from perdure.pipeline.data.features import sample_texts
from perdure.pipeline.data.read.readers import CleanedDocuments
from perdure.pipeline.data.tokenizer.train import document_texts
from tests.pipeline.data.cleaning.cleaned import GERMAN, PROSE, clean, reasons
from tests.pipeline.data.texts import random_text, write_jsonl


@pytest.mark.parametrize(
    ("step", "text", "reason"),
    [
        ({"type": "length", "min_chars": 30}, "short", "too_short"),
        ({"type": "length", "max_chars": 3000}, "long " * 1000, "too_long"),
        ({"type": "gopher_quality"}, "only a few words that have the end of it", "gopher_short_doc"),
        ({"type": "gopher_quality"}, "# the and " * 60, "gopher_too_many_hashes"),
        ({"type": "gopher_quality"}, "word " * 60, "gopher_enough_stop_words"),
        ({"type": "gopher_repetition"}, "the same line\n" * 20, "dup_line_frac"),
        ({"type": "gopher_repetition"}, "blue sky " * 60, "top_2_gram"),
        ({"type": "c4_quality"}, "A line with { in it. " * 6, "curly_bracket"),
        ({"type": "c4_quality"}, "One sentence only.", "too_few_sentences"),
        ({"type": "fineweb_quality"}, "no end of a sentence here\n" * 3 + "nor here", "line_punct_ratio"),
        ({"type": "language", "keep": ["en"]}, GERMAN, "other_language"),
        ({"type": "exact_dedup"}, "\n".join(PROSE), "exact_duplicate"),
        ({"type": "minhash_dedup"}, "\n".join(PROSE) + " Then", "near_duplicate"),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else None,
)
def test_each_step_drops_what_it_is_for_and_says_why(tmp_path, step, text, reason):
    good = ["\n".join(PROSE), " ".join(reversed(PROSE))]
    left, counts, final = clean(tmp_path, [*good, text], [step])
    assert sorted(left) in (sorted(good), sorted([good[1], text.strip()]))
    assert reasons(counts) == {reason: 1}
    assert counts["documents"] == {"in": 3, "dropped": {reason: 1}, "out": 2}
    (line,) = (final / "dropped" / f"01_{step['type']}.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert (row["reason"], row["id"]) == (reason, row["id"]) and row["text"] in (
        text.strip()[:1000],
        good[0][:1000],
    )


def test_lines_that_c4_removes_are_counted_as_shortened(tmp_path):
    text = "\n".join([*PROSE, "Click here", "We use cookies on this site to help you."])
    left, counts, final = clean(tmp_path, [text], [{"type": "c4_quality"}])
    assert left == ["\n".join(PROSE)]
    assert counts["steps"][1]["dropped"] == {"shortened": {"documents": 0, "words": 2 + 9}}
    assert counts["documents"] == {"in": 1, "dropped": {}, "out": 1}
    words = count_words(text)
    assert counts["words"] == {"in": words, "dropped": {"shortened": 11}, "out": words - 11}
    row = json.loads((final / "dropped" / "01_c4_quality.jsonl").read_text())
    assert "Click here" in row["text"] and "Click here" not in row["left"]


def test_personal_data_is_replaced_and_no_word_lost(tmp_path):
    text = "Write to jane.doe@corp.net or from 8.8.8.8, not 10.0.0.1."
    left, counts, _ = clean(tmp_path, [text], [{"type": "pii"}])
    assert left == ["Write to email@example.com or from 22.214.171.124, not 10.0.0.1."]
    assert counts["documents"]["dropped"] == counts["words"]["dropped"] == {}


def test_repeated_sentences_are_removed(tmp_path):
    other = "Quite another text about ships. It has four sentences. They are its own. No one else has them. "
    step = {"type": "sentence_dedup", "min_doc_words": 10, "min_num_sentences": 2}
    texts = [" ".join(PROSE), other + " ".join(PROSE[2:6]), " ".join(PROSE[1:5])]
    left, counts, _ = clean(tmp_path, texts, [step], tasks=1)
    assert left == [" ".join(PROSE), other.strip()]
    assert counts["steps"][1]["dropped"] == {
        "duplicate_sentences": {"documents": 1, "words": count_words(texts[2])},
        "shortened": {"documents": 0, "words": count_words(" ".join(PROSE[2:6]))},
    }


def test_languages_are_identified_and_kept_in_the_metadata(tmp_path):
    _, counts, final = clean(tmp_path, [GERMAN, "\n".join(PROSE)], [{"type": "language"}], tasks=1)
    found = [document.metadata["language"] for document in CleanedDocuments(str(final)).run()]
    assert found == ["de", "en"] and reasons(counts) == {}


def test_documents_that_share_thirteen_words_with_an_evaluation_are_dropped(tmp_path):
    thirteen = "one two three four five six seven eight nine ten eleven twelve thirteen"
    probes = [
        {"id": "p", "question": f"Which is it? {thirteen}!", "choices": ["a b", thirteen]},
        {"id": "too short"},
    ]
    write_jsonl(tmp_path / "probes.jsonl", probes)
    (tmp_path / "test.txt").write_text(" ".join(PROSE))
    texts = [
        random_text(1)
        + " One, two THREE (four) five six seven eight nine ten eleven twelve thirteen "
        + random_text(2),
        random_text(3) + " " + " ".join(thirteen.split()[:12]) + " " + random_text(4),
        "\n".join(PROSE[1:3]),
        *(random_text(seed) for seed in range(5, 9)),
    ]
    files = [str(tmp_path / "probes.jsonl"), str(tmp_path / "test.txt")]
    left, counts, _ = clean(tmp_path, texts, [{"type": "decontaminate", "files": files}])
    assert sorted(left) == sorted([texts[1], *texts[3:]])
    record = counts["steps"][1]
    assert reasons(counts) == {"contaminated:probes.jsonl": 1, "contaminated:test.txt": 1}
    assert record["evaluation"] == [
        {"file": "probes.jsonl", "strings": 5, "too_short": 3},
        {"file": "test.txt", "strings": 1, "too_short": 0},
    ]


@pytest.mark.parametrize("rows", [[{"question": "What is one and one?"}], []])
def test_an_evaluation_file_that_would_leak_is_refused(tmp_path, rows):
    path = write_jsonl(tmp_path / "probes.jsonl", rows)
    message = (
        rf"probes.jsonl: none of its {len(rows)} strings has 13 words, .* would leak into training; lower"
    )
    with pytest.raises(PerdureError, match=message):
        clean(tmp_path, [random_text(1)], [{"type": "decontaminate", "files": [str(path)]}])


def test_examples_are_those_with_the_lowest_hashes_under_any_number_of_tasks(tmp_path):
    texts = [random_text(seed) for seed in range(20)] + [f"dropped {number}" for number in range(30)]
    step = {"type": "length", "min_chars": 30}
    expected = sorted(texts[20:], key=lambda text: f"{text_hash(text):016x}")[:EXAMPLES]
    for tasks in (1, 3):
        _, _, final = clean(tmp_path / str(tasks), texts, [step], tasks)
        lines = (final / "dropped" / "01_length.jsonl").read_text().splitlines()
        assert [json.loads(line)["text"] for line in lines] == expected


def test_nothing_left_names_every_reason(tmp_path):
    steps = [{"type": "length", "min_chars": 20}, {"type": "gopher_quality"}, {"type": "exact_dedup"}]
    with pytest.raises(
        PerdureError, match=r"sources.s: no document left of 2 \(1 gopher_short_doc, 1 too_short\)"
    ):
        clean(tmp_path, ["short", "long enough, but not in words"], steps)


STEPS = [
    {"type": "length", "min_chars": 60, "max_chars": 2500},
    {"type": "language", "keep": ["en", "de"], "min_score": 0.3},
    {"type": "gopher_quality", "min_doc_words": 12},
    {"type": "gopher_repetition"},
    {"type": "c4_quality", "min_num_sentences": 2},
    {"type": "fineweb_quality", "char_duplicates_ratio": 0.3},
    {"type": "pii"},
    {"type": "exact_dedup"},
    {"type": "minhash_dedup"},
    {"type": "sentence_dedup", "min_doc_words": 8, "min_num_sentences": 1},
]
PIECES = [
    *PROSE,
    GERMAN,
    "Click here",
    "mail a.b@c.de or 9.9.9.9",
    "中文没有空格。",
    "\u0085 \x00",
    "{ code }",
    "the the the",
    "",
    "\n\n",
]


@settings(max_examples=20, phases=[Phase.generate])  # a pipeline takes too long to shrink
@given(
    st.lists(st.sampled_from(STEPS), max_size=5),
    st.lists(st.lists(st.sampled_from(PIECES), min_size=1, max_size=12), min_size=1, max_size=12),
    st.integers(1, 3),
    st.integers(),
)
def test_in_is_out_and_dropped_for_every_step_of_any_pipeline(
    tmp_path_factory, steps, documents, tasks, seed
):
    rng = random.Random(seed)
    texts = [rng.choice(["\n", " "]).join(pieces) for pieces in documents]
    # One document passes every step, so that there is an artefact to look at.
    sound = "\n".join(
        f"{' '.join(rng.sample(' '.join(PROSE).split(), 14))}, and that was {number}." for number in range(9)
    )
    steps = [step | ({"min_stop_words": 0} if step["type"] == "gopher_quality" else {}) for step in steps]
    try:
        left, counts, _ = clean(tmp_path_factory.mktemp("any"), [*texts, sound], steps, tasks)
    except PerdureError as error:
        assert "no document left" in str(error)
        return
    records = counts["steps"]
    assert [record["step"] for record in records] == ["read"] + [
        f"{number:02d}_{step['type']}" for number, step in enumerate(steps, 1)
    ]
    for before, record in zip([None, *records], records, strict=False):
        for unit in ("documents", "words"):
            dropped = sum(entry[unit] for entry in record["dropped"].values())
            assert record["in"][unit] == record["out"][unit] + dropped
            assert before is None or record["in"][unit] == before["out"][unit]
            assert all(entry[unit] >= 0 for entry in record["dropped"].values())
    assert records[0]["in"]["documents"] == len(texts) + 1
    assert records[-1]["out"] == {"documents": len(left), "words": sum(map(count_words, left))}


@pytest.mark.parametrize("name", ["team[1]", "a*b", "a?b", "{x}"])
def test_duplicates_are_found_and_texts_read_below_a_directory_whose_name_looks_like_a_pattern(
    tmp_path, name
):
    """datatrove's own listing takes the directory's path for a part of the pattern, and finds nothing."""
    prose, sentences = "\n".join(PROSE), " ".join(PROSE[:4])
    steps = [{"type": "exact_dedup"}, {"type": "minhash_dedup"}, {"type": "sentence_dedup"}]
    other = " ".join([*PROSE[:4], random_text(1), ".", random_text(2)])
    texts = [prose, prose, prose + " Then", sentences, other]
    expected = clean(tmp_path / "plain", texts, steps)
    found, counts, final = clean(tmp_path / name, texts, steps)
    assert (found, counts) == (expected[0], expected[1])
    assert [reasons(counts, step) for step in (1, 2, 3)] == [
        {"exact_duplicate": 1},
        {"near_duplicate": 1},
        {"duplicate_sentences": 2},
    ]
    assert [document.text for document in CleanedDocuments(str(final)).all()] == found
    assert list(document_texts(final)) == found and sorted(sample_texts(final, 0.0)) == sorted(found)


def test_signatures_that_matching_would_not_see_stop_the_cleaning(tmp_path, monkeypatch):
    listed = Folder.glob
    monkeypatch.setattr(clean_module, "LISTED_SECONDS", 0.0)
    monkeypatch.setattr(Folder, "glob", lambda *_, **__: {})
    with pytest.raises(PerdureError) as error:
        clean(tmp_path, ["x"], [{"type": "exact_dedup"}])
    assert str(error.value) == (
        f"sources.s: {tmp_path}/out/work/clean.s/01_exact_dedup: signatures of 0 tasks are listed after 0 s, should be 2; "
        "does this machine see files that others write? Run the same command again: it goes on here"
    )
    monkeypatch.setattr(Folder, "glob", listed)
    assert clean(tmp_path, ["x"], [{"type": "exact_dedup"}])[0] == ["x"]


def test_signatures_that_are_listed_late_are_waited_for(tmp_path, monkeypatch):
    listed, asked = Folder.glob, []

    def late(*arguments, **options):
        asked.append(arguments)
        return listed(*arguments, **options) if len(asked) > 2 else {}

    monkeypatch.setattr(Folder, "glob", late)
    assert clean(tmp_path, ["x", "x"], [{"type": "exact_dedup"}])[0] == ["x"]


def test_personal_data_is_replaced_alike_in_equal_texts_whatever_stands_before_them(tmp_path):
    text = "Write to john.smith@gmail.com or ask 8.8.8.8 for the details."
    other = "Jane, jane@web.de, has 1.1.1.1 and 9.9.9.9 as well."
    steps = [{"type": "pii"}, {"type": "exact_dedup"}]
    found, counts, _ = clean(tmp_path, [text, other, text, text], steps, tasks=1)
    assert found == [
        "Write to email@example.com or ask 22.214.171.124 for the details.",
        "Jane, email@example.com, has 22.214.171.124 and 22.214.171.124 as well.",
    ]
    assert reasons(counts, 2) == {"exact_duplicate": 2}
