"""Packaging: the top-level folders install as `perdure.<folder>`; metadata lives in pyproject.toml."""

from setuptools import find_packages, setup

FOLDERS = ("pipeline", "data_recipes", "launch", "kernels")
packages = [*FOLDERS, *(f"{folder}.{sub}" for folder in FOLDERS for sub in find_packages(folder))]

setup(
    packages=[f"perdure.{package}" for package in packages],
    package_dir={f"perdure.{package}": package.replace(".", "/") for package in packages},
    package_data={
        "perdure.data_recipes": ["*.yaml", "*.jinja", "reproduce/*.yaml"],
        "perdure.pipeline": ["py.typed"],
        "perdure.pipeline.evaluate.report": ["*.css", "*.html"],
        "perdure.pipeline.cli.inspection": ["*.html"],
        "perdure.pipeline.run.sweep": ["*.html"],
    },
)
