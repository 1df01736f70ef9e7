"""Where the deduplication steps keep datatrove's signatures."""

from pathlib import PurePosixPath

from datatrove.io import DataFolder

from perdure.pipeline.data.read.files import fits

SIGNATURES = "*/*.c4_sig"
"""Pattern of the signature files that datatrove's exact and sentence deduplication look for."""


class Folder(DataFolder):
    """A datatrove folder whose own path is no glob pattern: of `/data/[2024]/run`, datatrove would list nothing."""

    def glob(self, path: str, **_: object) -> dict[str, dict]:
        """Files in the folder that fit a pattern, by name."""
        pattern = PurePosixPath(path).parts
        found = self.find("", maxdepth=len(pattern), detail=True)
        return {name: info for name, info in found.items() if fits(name, [pattern])}
