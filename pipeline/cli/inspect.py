"""`perdure data inspect`: what the data stage read, dropped and kept."""

import argparse
import logging

from perdure.pipeline.core.console import print_json

logger = logging.getLogger(__name__)


def inspect(options: argparse.Namespace) -> None:
    """Shows a recipe's data, or a directory's, as tables, a page or JSON."""
    from perdure.pipeline.checks.check import load_lineage
    from perdure.pipeline.cli.inspection.gather import of_directory, of_recipe
    from perdure.pipeline.core.errors import PerdureError

    if options.recipe.is_dir():
        if options.set or options.out:
            raise PerdureError(f"{options.recipe} is a directory: --set and --out are for recipes")
        found = of_directory(options.recipe)
    else:
        found = of_recipe(load_lineage(options.recipe, options.set, options.out))
    if options.html is not None:
        from perdure.pipeline.cli.inspection.page import render_inspection
        from perdure.pipeline.core.files import write_atomic
        from perdure.pipeline.core.manifest import disk_errors

        with disk_errors(options.html):
            write_atomic(options.html, render_inspection(found))
        logger.info(f"wrote {options.html}")
    if options.json:
        print_json(found)
    elif options.html is None:
        from perdure.pipeline.cli.inspection.text import print_inspection

        print_inspection(found)
