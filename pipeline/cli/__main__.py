"""`python -m perdure.pipeline.cli`: the command line, as jobs start it."""

import sys

from perdure.pipeline.cli.entry import main

if __name__ == "__main__":
    sys.exit(main())
