"""What all pages share: their table, and where their templates are looked for."""

import pytest
from jinja2 import TemplateNotFound

from perdure.pipeline.evaluate.report.html import render

PAGE = """{% from "table.html" import interval, number, table %}
{% call table(text("a<b") + numbers("tokens\\nper second", "loss") + centred("c"), "below", kind="heat") %}
<tr>{{ number(none, form.loss) }}{{ number(1234, form.integer) }}{{ interval([0.5, -1], form.signed) }}</tr>
{% endcall %}
"""


@pytest.fixture
def package(tmp_path, monkeypatch) -> str:
    """A package with a template of its own."""
    (tmp_path / "made_up_pages").mkdir()
    (tmp_path / "made_up_pages" / "__init__.py").touch()
    (tmp_path / "made_up_pages" / "own.html").write_text(PAGE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "made_up_pages"


def test_a_table_is_spelled_once(package):
    page = render(package, "own.html", {})
    assert '<div class="scroll">\n<table class="heat">' in page and "<caption>below</caption>" in page
    assert '<th scope="col">a&lt;b</th><th scope="col" class="number">tokens<br>per second</th>' in page
    assert '<th scope="col" class="centred">c</th>' in page
    assert '<td class="number"><span class="muted">&ndash;</span></td><td class="number">1,234</td>' in page
    assert '<span class="muted range">+0.500 to \N{MINUS SIGN}1.000</span>' in page


def test_a_page_has_its_own_templates_and_the_shared_ones_alone(package):
    with pytest.raises(TemplateNotFound):
        render(package, "sweep.html", {})
    assert render("perdure.pipeline.evaluate.report", "table.html", {}).strip() == ""
