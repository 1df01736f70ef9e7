"""The command line's groups and spellings."""

from pathlib import Path

import pytest

from perdure.pipeline.cli import entry

TEMPLATE = str(Path(__file__).parents[3] / "data_recipes" / "template.yaml")


def test_help_lists_commands_by_group_and_old_spellings_in_one_line(capsys):
    with pytest.raises(SystemExit):
        entry.main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    headings = [line for line in lines if line in ("make:", "look:", "move:")]
    assert (
        headings == ["make:", "look:", "move:"] and lines[0] == "usage: perdure [-h] [--version] COMMAND ..."
    )
    listed = {verb for verb in entry.VERBS if any(line.startswith(f"  {verb} ") for line in lines)}
    assert entry.VERBS.keys() - listed == {"log", "diff", "branch", "compare"}
    (old,) = (line for line in lines if line.startswith("old spellings: "))
    assert all(verb in old for verb in ("log", "diff", "branch", "compare"))


@pytest.mark.parametrize(
    "command",
    [
        ["log", TEMPLATE, "--json"],
        ["diff", TEMPLATE, "base", "update"],
        ["branch", TEMPLATE, "base", "--at", "5", "--tokens", "1_000_000"],
        ["compare", "no/run"],
    ],
)
def test_commands_of_versions_have_two_spellings(command, capsys):
    old = entry.main(command), capsys.readouterr()
    new = entry.main(["versions", *command]), capsys.readouterr()
    assert new == old and (old[1].out or old[1].err)
