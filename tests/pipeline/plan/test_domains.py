"""Names of domains: what they say, which overlap, and what is measured."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_recipe

from perdure.pipeline.plan.domains import Domain, measured_domains, overlapping, parse, source_of


@pytest.mark.parametrize(
    ("name", "domain"),
    [
        ("web", Domain("web", None, None)),
        ("web/science", Domain("web", None, "science")),
        ("web/Art & Music/Pop", Domain("web", None, "Art & Music/Pop")),
        ("web/me@home", Domain("web", None, "me@home")),
        ("web@de", Domain("web", "de", None)),
        ("web@de/sport", Domain("web", "de", "sport")),
        ("web[2023-01..2023-06]", Domain("web", since="2023-01", until="2023-06")),
        ("web[..2023]", Domain("web", since="", until="2023")),
        ("web@de/sport[2023..]", Domain("web", "de", "sport", "2023", "")),
        ("web/a [b]", Domain("web", None, "a [b]")),
        ("web[2023]", Domain("web[2023]")),
        ("web+prefix", Domain("web", with_prefix="+prefix")),
        ("web@de[2023..]+prefix", Domain("web", "de", None, "2023", "", "+prefix")),
        ("web/c++", Domain("web", None, "c++")),
        ("web@", Domain("web@", None, None)),
        ("/sport", Domain("/sport", None, None)),
    ],
)
def test_a_name_says_source_language_and_topic(name, domain):
    assert parse(name) == domain
    assert source_of(name) == domain.source


labels = st.sampled_from(["", "x", "y"])


@given(labels, labels, labels, labels)
def test_domains_overlap_if_a_document_can_be_in_both(language, topic, other_language, other_topic):
    def name(language, topic):
        return "web" + (f"@{language}" if language else "") + (f"/{topic}" if topic else "")

    def holds(language, topic):
        return {
            (one, other)
            for one in "xyz"
            for other in "xyz"
            if (not language or one == language) and (not topic or other == topic)
        }

    left, right = name(language, topic), name(other_language, other_topic)
    assert [*overlapping([right])(left)] == [right] * bool(
        holds(language, topic) & holds(other_language, other_topic)
    )
    assert not [*overlapping([right.replace("web", "news")])(left)]


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        (
            "web[2023-01..2023-06]",
            ["2023-01", "2023-06-30", "2023-03-07"],
            ["2022-12-31", "2023-07-01", "2023", None],
        ),
        ("web[..2023]", ["1999", "2023", "2023-12-31"], ["2024-01-01", None]),
        ("web[2023..]", ["2023-01-01", "2030"], ["2022-12"]),
        ("web[..]", ["2023"], [None]),
    ],
)
def test_both_ends_of_a_range_of_dates_are_in_it(name, inside, outside):
    domain = parse(name)
    assert all(domain.holds(date) for date in inside)
    assert not any(domain.holds(date) for date in outside)


def test_ranges_of_dates_overlap_if_they_share_a_day():
    assert [*overlapping(["web[2023-01..2023-06]"])("web[2023-06-30..]")] == ["web[2023-01..2023-06]"]
    assert not [*overlapping(["web[2023-01..2023-06]"])("web[2023-07..]")]
    assert [*overlapping(["web", "web@de", "web@en[2023..]"])("web@de[2023..]")] == ["web", "web@de"]


@given(st.lists(st.tuples(st.sampled_from(["web", "news"]), labels, labels), unique=True))
def test_those_that_overlap_come_in_their_order(domains):
    names = [
        source + f"@{language}" * bool(language) + f"/{topic}" * bool(topic)
        for source, language, topic in domains
    ]
    for name in names:
        assert [*overlapping(names)(name)] == [other for other in names if [*overlapping([other])(name)]]


def test_every_source_and_every_part_that_a_mixture_names_is_measured(tmp_path):
    mixture = {
        "sources": {"a/x": {}},
        "switches": [{"at": 0.5, "sources": {"a/y": {}}}],
        "replay": {"share": 0.5, "sources": {"b@de": {}}},
    }
    recipe = tiny_recipe(tmp_path, versions__v1__mixture=mixture)
    assert measured_domains(recipe) == ["a", "b", "a/y", "a/x", "b@de"]
