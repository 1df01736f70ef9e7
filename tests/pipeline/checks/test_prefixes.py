"""Mistakes in prefixes: one line each, before anything starts."""

import json

import pytest

from tests.pipeline.checks.template import found

PREFIX, SOURCES = "sources.prose.prefix", "versions.base.mixture.sources"


def problems(tmp_path, template, *overrides, **fields):
    path = tmp_path / "news.jsonl"
    path.write_text(json.dumps({"text": "Some text.", "url": "x.org", "id": "a"} | fields) + "\n")
    reader = f"sources.prose.reader={{type: jsonl, path: {path}}}"
    return found(reader, f"{PREFIX}={json.dumps(template)}", *overrides, out=tmp_path / "out")


def test_a_prefix_of_known_fields_has_no_problem(tmp_path):
    assert problems(tmp_path, "URL: {url}\n\n") == {}
    assert problems(tmp_path, "{library}=={version}\n", metadata={"library": "torch", "version": "2"}) == {}
    assert problems(tmp_path, "{date}", "sources.prose.date_field=when", when="2024") == {}
    plain = f"{SOURCES}:={{prose: {{prefix: false}}}}"
    assert problems(tmp_path, "URL: {url}\n\n", plain) == {}


@pytest.mark.parametrize(
    ("template", "remedy"),
    [
        ("{ulr}", "no document has the field `ulr`; did you mean `url`?"),
        ("{text}", "`text` is the document's text; a prefix can have any other field of its metadata"),
        ("{id}", "`id` is the document's id; a prefix can have any other field of its metadata"),
        ("{date}", "no document has the field `date`"),
        ("plain", "should name a field of the metadata, as in `date: {date}`"),
        ("{url!r}", "`{url!r}` should be `{field}`"),
    ],
)
def test_an_unknown_field_or_no_template_is_one_line(tmp_path, template, remedy):
    value, told = problems(tmp_path, template)[PREFIX]
    assert value == template and remedy in told and "\n" not in told


def test_a_place_without_prefix_needs_a_source_with_one(tmp_path):
    told = found(f"{SOURCES}:={{prose: {{prefix: false}}}}", out=tmp_path / "out")
    assert told[f"{SOURCES}.prose.prefix"] == (False, "has no use: sources.prose has no `prefix`")


def test_the_name_of_what_is_measured_cannot_be_mixed(tmp_path):
    told = problems(tmp_path, "{url}", f"{SOURCES}:={{prose+prefix: {{}}}}")
    assert told[f"{SOURCES}.prose+prefix"][1].startswith(
        "names what is measured; `prose` is read with its prefix"
    )


def test_documents_without_fields_have_no_prefix(tmp_path):
    told = found("sources.code.prefix='{url}'", out=tmp_path / "out")
    assert told["sources.code.prefix"][1].endswith("have no fields beside their text")
