import pytest

from perdure.pipeline.recipe.prefixes import fields_of, rendered

METADATA = {
    "date": "2018-05-17T12:00:00Z",
    "url": "https://user@en.wikipedia.org:443/wiki/Otter?x=1",
    "library": "torch",
    "version": 2,
    "tags": ["a"],
    "flag": True,
    "empty": "",
    "blank": "  ",
    "nan": float("nan"),
}


@pytest.mark.parametrize(
    ("template", "prefix"),
    [
        ("URL: {url}\n\n", "URL: en.wikipedia.org\n\n"),
        ("{library}=={version}\n", "torch==2\n"),
        ("date: {date}\n\n", "date: 2018-05-17T12:00:00Z\n\n"),
        ("year: {date:.4} text: ", "year: 2018 text: "),
        ("{{x}} {library}", "{x} torch"),
        ("{gone} {library}", None),
        ("{tags}", None),
        ("{flag}", None),
        ("{empty}", None),
        ("{blank}", None),
        ("{nan}", None),
    ],
)
def test_a_template_is_filled_or_the_document_stays_plain(template, prefix):
    assert rendered(template, METADATA, None) == prefix


def test_a_date_is_as_it_was_normalised_where_the_source_has_dates():
    assert rendered("date: {date}\n", METADATA, "date") == "date: 2018-05-17\n"
    assert rendered("date: {date}\n", {"when": "2018-05"}, "when") == "date: 2018-05\n"
    assert rendered("{when:.4}", {"when": 2018}, "when") == "2018"
    assert rendered("date: {date}\n", {}, "when") is None


@pytest.mark.parametrize("url", ["en.wikipedia.org/wiki", "//en.wikipedia.org", "http://EN.wikipedia.org"])
def test_of_an_address_the_host_alone_stands_there(url):
    assert rendered("{url}", {"url": url}, None) == "en.wikipedia.org"


def test_what_has_no_host_is_no_address():
    assert rendered("{url}", {"url": "file:///tmp/x"}, None) is None
    assert rendered("{url}", {"url": "http://[broken"}, None) is None


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("plain text", "should name a field"),
        ("{", "should be a text with fields in braces"),
        ("{}", "`{}` should be `{field}`"),
        ("{a.b}", "`{a.b}` should be"),
        ("{a[0]}", "`{a[0]}` should be"),
        ("{a!r}", "`{a!r}` should be"),
        ("{a:>9999999}", "`{a:>9999999}` should be"),
    ],
)
def test_what_is_no_template_says_what_one_is(template, complaint):
    with pytest.raises(ValueError) as error:
        fields_of(template)
    assert str(error.value).startswith(complaint)
