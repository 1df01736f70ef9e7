"""YAML for people: what is said twice is written twice, and several lines stand as several lines."""

import yaml


class _Readable(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


_Readable.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
    ),
)


def yaml_text(tree: dict) -> str:
    """A manifest's text; values that a block of lines cannot hold are quoted."""
    return yaml.dump(tree, Dumper=_Readable, sort_keys=False, width=1000)
