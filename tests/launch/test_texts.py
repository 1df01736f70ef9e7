"""Manifests as people read them."""

import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from perdure.launch.texts import yaml_text


def test_lines_stand_as_lines_and_nothing_refers_elsewhere():
    same = {"memory": "8Gi"}
    text = yaml_text({"run": "cd x\nexec y\n", "limits": same, "requests": same})
    assert text == "run: |\n  cd x\n  exec y\nlimits:\n  memory: 8Gi\nrequests:\n  memory: 8Gi\n"


@given(st.text(st.characters(codec="utf-8"), max_size=40))
@example("\n  indented\n")
@example("trailing \nspace ")
@example("a\n\n\n")
@example("\r\n\x85\u2028")
@example("\t\n#")
def test_any_value_is_read_back(value):
    assert yaml.safe_load(yaml_text({"value": value, "list": [value]})) == {"value": value, "list": [value]}
