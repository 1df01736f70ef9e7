#!/usr/bin/env bash
# Builds the Dockerfile on a stand-in for NVIDIA's base, without a Docker engine, and runs `perdure check` inside.
#
#     apt-get install --no-install-recommends buildah debootstrap runc
#     tests/container.sh [DIRECTORY]      # 5 minutes and 6 GB in DIRECTORY, default a temporary one; needs root
#
# The stand-in is Debian with Python and with the PyTorch of the environment that PYTHON (default .venv/bin/python) runs in,
# whose version must be that of the system's Python. What it cannot show: GPUs, and NVIDIA's own packages.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-.venv/bin/python}
WORK=${1:-$(mktemp -d)}
SUITE=${SUITE:-bookworm}
mkdir -p "$WORK"
BASE=$WORK/base
BUILDAH=(buildah --storage-driver vfs --root "$WORK/storage" --runroot "$WORK/run")
step() { printf '\n== %s\n' "$*"; }

step "stand-in base in $BASE"
if [ ! -e "$BASE/stand-in" ]; then
  debootstrap --variant=minbase --include=python3-pip,python-is-python3,ca-certificates "$SUITE" "$BASE" >"$WORK/debootstrap.log"
  # The certificates of a proxy that the network may have.
  cp /etc/ssl/certs/ca-certificates.crt "$BASE/etc/ssl/certs/ca-certificates.crt"
  "$PYTHON" - "$BASE" <<'COPY'
import importlib.metadata as metadata
import re
import shutil
import sys
from pathlib import Path

version = f"{sys.version_info.major}.{sys.version_info.minor}"
target, wanted, seen = Path(sys.argv[1], f"usr/local/lib/python{version}/dist-packages"), ["torch"], set()
while wanted:
    name = wanted.pop()
    if name in seen:
        continue
    seen.add(name)
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        continue  # another platform's
    for file in distribution.files or ():
        if ".." not in file.parts:  # commands
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file.locate(), target / file)
    for requirement in distribution.requires or ():
        if "extra ==" not in requirement:
            wanted.append(re.match(r"[\w.-]+", requirement)[0])
print("PyTorch brought", ", ".join(sorted(seen)))
COPY
  touch "$BASE/stand-in"
fi
torch_files() { (cd "$1" && find usr/local/lib -path '*/dist-packages/torch/*.py' -exec sha256sum {} + | sort | sha256sum); }
before=$(torch_files "$BASE")

container=$("${BUILDAH[@]}" from scratch)
"${BUILDAH[@]}" add --quiet "$container" "$BASE" / >/dev/null
"${BUILDAH[@]}" commit --quiet --rm "$container" stand-in >/dev/null

step "building"
"${BUILDAH[@]}" bud --isolation chroot --network host --pull-never --build-arg BASE_IMAGE=localhost/stand-in \
  --tag perdure . 2>&1 | tee "$WORK/build.log" | grep -E '^(STEP|Successfully|error|ERROR)' || true

step "what was built"
container=$("${BUILDAH[@]}" from --pull-never localhost/perdure)
trap '"${BUILDAH[@]}" rm "$container" >/dev/null' EXIT
inspect() { "${BUILDAH[@]}" inspect --format "$1" "$container"; }
[ "$(inspect '{{.OCIv1.Config.User}} {{.OCIv1.Config.Entrypoint}}')" = "10001:10001 [perdure]" ]
mounted=$("${BUILDAH[@]}" mount "$container")
[ "$(torch_files "$mounted")" = "$before" ] || { echo "PyTorch was replaced" >&2; exit 1; }
echo "user 10001, entry point perdure, PyTorch as in the base"

step "perdure check inside"
inside() { "${BUILDAH[@]}" run --isolation chroot --network host "$container" -- "$@"; }
inside sh -c 'test "$(id -u)" = 10001 && ! touch /opt/perdure/x 2>/dev/null'
inside perdure --version
inside perdure recipe new my.yaml
inside perdure check my.yaml
step "done"
