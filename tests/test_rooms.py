"""What a machine of the data stage and one that trains need not have installed."""

import subprocess
import sys

import pytest

IMPORT_ALL = """
import importlib, pkgutil, sys
folder, absent = sys.argv[1:]
sys.modules[absent] = None  # `import` raises
package = importlib.import_module(folder)
for module in pkgutil.walk_packages(package.__path__, f"{folder}."):
    importlib.import_module(module.name)
print(sum(name.startswith(folder) for name in sys.modules))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "absent"),
    [
        ("perdure.pipeline.data", "megatron"),
        ("perdure.pipeline.data", "triton"),
        ("perdure.pipeline.train", "datatrove"),
        ("perdure.kernels", "megatron"),
        ("perdure.kernels", "datatrove"),
    ],
)
def test_every_module_of_a_folder_can_be_imported_without(folder, absent):
    done = subprocess.run(
        [sys.executable, "-P", "-W", "ignore", "-c", IMPORT_ALL, folder, absent],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) > 10
