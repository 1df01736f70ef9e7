"""`python -m perdure.pipeline.data.slurm FILE`: a job of an array, as scripts that 0.1 queued start it."""

import sys

from perdure.pipeline.data.backends.slurm import main

if __name__ == "__main__":
    main(sys.argv[1])
