"""Messages on the console: which are shown, where, and what records carry."""

import json
import logging
import re
import subprocess
import sys

import pytest
from messages import messages

from perdure.pipeline.cli.entry import main
from perdure.pipeline.core import logs

logger = logging.getLogger("perdure.test")
HOSTILE = "a\x1b[2Jb\x07c\x9bd\re"


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """Undoes what a test configures."""
    root = logging.getLogger("perdure")
    before = root.level, list(root.handlers), root.propagate
    monkeypatch.delenv(logs.LEVEL, raising=False)
    monkeypatch.delenv("RANK", raising=False)
    yield
    logs.set_version(None)
    root.level, root.handlers[:], root.propagate = before
    root.setLevel(before[0])  # forgets what it remembers of levels


def say_all() -> None:
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logger.log(level, f"at {logging.getLevelName(level)}")


def test_messages_go_to_stdout_and_warnings_to_stderr(capsys):
    logs.configure()
    say_all()
    assert capsys.readouterr() == ("at INFO\n", "at WARNING\nat ERROR\n")


def test_where_stdout_is_data_all_goes_to_stderr(capsys):
    logs.configure(data_on_stdout=True)
    say_all()
    assert capsys.readouterr() == ("", "at INFO\nat WARNING\nat ERROR\n")


def test_quiet_shows_warnings_and_errors_only(capsys):
    logs.configure("WARNING")
    say_all()
    assert capsys.readouterr() == ("", "at WARNING\nat ERROR\n")


def test_verbose_shows_details_and_each_line_has_time_level_rank_and_version(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "3")
    logs.configure("DEBUG")
    logs.set_version("update")
    logger.debug("one\ntwo")
    prefix = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} DEBUG rank=3 version=update "
    assert re.fullmatch(f"{prefix}one\n{prefix}two\n", capsys.readouterr().out)
    logs.set_version(None)
    logger.warning("three")
    assert re.fullmatch(r"\S+ \S+ WARNING rank=3 version=- three\n", capsys.readouterr().err)


def test_of_several_ranks_the_first_one_speaks(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    logs.configure()
    say_all()
    assert capsys.readouterr() == ("", "at WARNING\nat ERROR\n")


def test_processes_that_a_command_starts_are_as_loud(monkeypatch):
    logs.configure("WARNING")
    assert logs.level_of_children() == "WARNING"
    monkeypatch.setenv(logs.LEVEL, "DEBUG")
    logs.configure()
    assert logs.level_of_children() == "DEBUG"
    logs.configure("WARNING")  # the command line wins
    assert logs.level_of_children() == "WARNING"


def test_records_have_rank_and_version(monkeypatch, capsys):
    found = []

    class Keeping(logging.Handler):
        def emit(self, record):
            found.append((record.rank, record.version))

    handler = Keeping()
    handler.addFilter(logs.add_context)
    logging.getLogger("perdure").addHandler(handler)
    logs.configure()
    logger.info("first")
    monkeypatch.setenv("RANK", "7")
    logs.set_version("v1")
    logger.info("second")
    assert found == [(0, "-"), (7, "v1")]


def test_while_silenced_only_warnings_are_said(capsys):
    logs.configure()
    with messages() as said:
        with logs.silenced():
            say_all()
        with logs.silenced(when=False):
            logger.info("again")
    assert said == ["at WARNING", "at ERROR", "again"]


def test_the_console_obeys_no_message(capsys):
    logs.configure()
    logger.info(HOSTILE)
    logger.error(HOSTILE)
    shown = r"a\x1b[2Jb\x07c\x9bd\x0de" + "\n"
    assert capsys.readouterr() == (shown, shown)


def test_configured_twice_a_message_is_shown_once_and_other_loggers_are_left_alone(capsys):
    logs.configure()
    logs.configure()
    logger.info("once")
    logging.getLogger("datatrove").info("nothing")
    logging.getLogger("transformers").info("nothing")
    assert capsys.readouterr() == ("once\n", "")


def test_a_closed_pipe_reaches_who_logs():
    code = "import logging; from perdure.pipeline.core import logs; logs.configure()\n"
    code += "try:\n    while True: logging.getLogger('perdure.x').info('y' * 9999)\nexcept BrokenPipeError: raise SystemExit(7)"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    process.stdout.read(10)
    process.stdout.close()
    assert process.wait(60) == 7


@pytest.mark.parametrize("option", ["--quiet", "--verbose"])
def test_every_command_has_the_options(tmp_path, option, capsys):
    assert main(["recipe", "new", str(tmp_path / "r.yaml"), option]) == 0
    out, err = capsys.readouterr()
    assert err == "" and (f"wrote {tmp_path / 'r.yaml'}" in out) == (option == "--verbose")


def test_json_stays_alone_on_stdout(tmp_path, capsys):
    assert main(["check", "data_recipes/quickstart.yaml", "--out", str(tmp_path), "--json", "--verbose"]) == 0
    assert json.loads(capsys.readouterr().out)["problems"] == []
