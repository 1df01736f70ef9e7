"""`perdure verify` of what is no directory of Perdure's: one line, and status 1."""

import pytest

from perdure.pipeline.cli import main


@pytest.mark.parametrize(
    ("place", "said"), [("absent", "no such directory"), (".", "nothing of Perdure's is here")]
)
def test_a_wrong_directory_is_named_in_one_line(tmp_path, capsys, place, said):
    assert main(["verify", str(tmp_path / place)]) == 1
    error = capsys.readouterr().err
    assert said in error and "--debug" not in error and len(error.splitlines()) == 1
