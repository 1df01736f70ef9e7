"""Files behind those that they import."""

from perdure.pipeline.data.imports import by_dependencies


def order(*files: tuple[str, str]) -> list[str]:
    numbers, unparsable = by_dependencies(files)
    assert sorted(numbers) == list(range(len(files))) and unparsable == 0
    return [files[number][0] for number in numbers]


def test_what_is_imported_comes_first():
    files = [
        ("src/app/main.py", "from app import model\nimport app.tools.text as text\nimport os"),
        ("src/app/model.py", "from .tools.text import clean\nfrom . import base"),
        ("README.md", "import app"),
        ("src/app/base.py", "from ..other import nothing\nfrom ...far import nothing"),
        ("src/app/tools/text.py", "import re"),
        ("src/app/__init__.py", ""),
        ("src/app/tools/__init__.py", "from .text import clean"),
    ]
    assert order(*files) == [
        "README.md",
        "src/app/base.py",
        "src/app/tools/text.py",
        "src/app/__init__.py",
        "src/app/model.py",
        "src/app/main.py",
        "src/app/tools/__init__.py",
    ]


def test_independent_files_keep_their_order():
    assert order(("b.py", ""), ("a.py", ""), ("c.txt", "")) == ["b.py", "a.py", "c.txt"]


def test_circles_are_broken_where_least_is_lacking():
    files = [("a.py", "import b, c"), ("b.py", "import a"), ("c.py", "import a"), ("d.py", "import d")]
    assert order(*files) == ["d.py", "b.py", "a.py", "c.py"]


def test_a_name_is_the_module_nearest_to_the_top():
    files = [("x.py", "import tools"), ("deep/down/tools.py", ""), ("lib/tools.py", "import x")]
    assert order(*files) == ["deep/down/tools.py", "x.py", "lib/tools.py"]


def test_files_that_are_no_python_import_nothing_and_are_counted():
    files = [("a.py", "import b\nprint 'old'"), ("b.py", "import c"), ("c.py", "\0"), ("d.js", "(")]
    assert by_dependencies(files) == ([0, 2, 1, 3], 2)
