"""The list of faults cannot rot: each still applies, leaves code that compiles and does something else, and names tests that
exist."""

import ast
from collections import Counter

import pytest

from tests.audit.__main__ import ROOT, all_faults, page, planted

FAULTS = all_faults()


def test_names_are_given_once():
    assert [name for name, count in Counter(fault.id for fault in FAULTS).items() if count > 1] == []
    assert all(fault.why.endswith(".") and "|" not in fault.why for fault in FAULTS)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_a_fault_applies_and_is_other_code(fault):
    text = (ROOT / fault.file).read_text()
    other = planted(fault, text)
    assert ast.dump(ast.parse(text)) != ast.dump(ast.parse(other))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_its_tests_exist(fault):
    assert fault.tests
    for test in fault.tests:
        file, _, name = test.partition("::")
        tree = ast.parse((ROOT / file).read_text())
        defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert any(found.startswith("test_") for found in defined)
        assert not name or name.partition("[")[0] in defined


def test_what_was_not_run_since_it_changed_is_no_success():
    text = page(FAULTS[:2], {FAULTS[0].key: "noticed"})
    assert "| all | 2 | 1 (50%) |" in text and f"- `{FAULTS[1].id}` (not run)" in text
