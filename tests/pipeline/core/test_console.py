"""What is said on a terminal is text, whatever names and paths it is made of."""

from perdure.pipeline.cli.entry import main
from perdure.pipeline.core.console import visible, visible_line

HOSTILE = "a\x1b[2Jb\x07c\x9bd\re"


def test_control_characters_are_written_out():
    assert visible(HOSTILE) == r"a\x1b[2Jb\x07c\x9bd\x0de"
    assert visible("tab\tand\nline, 日本語\u3000é") == "tab\tand\nline, 日本語\u3000é"
    assert visible_line("one\ntwo\x1b") == r"one\ntwo\x1b"


def test_the_console_obeys_no_name(tmp_path, capsys):
    assert main(["status", str(tmp_path / HOSTILE)]) == 1
    said = capsys.readouterr().err
    assert r"\x1b[2J" in said and "\x1b" not in said and len(said.splitlines()) == 1
