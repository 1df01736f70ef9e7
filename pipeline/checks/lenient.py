"""A recipe with mistakes, made usable as far as it goes, so that all other mistakes can be found in the same pass.

A part that its type rejects is replaced by `BROKEN`, and whatever looks at it raises `BrokenField`: a check that
needs it cannot be made, all others can. Nothing but checks may use such a recipe.
"""

from typing import Annotated, Any, get_args, get_origin

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from perdure.pipeline.recipe import Recipe, Section


class BrokenField(Exception):
    """A check looked at a part of the recipe that is itself a mistake."""


class _Broken:
    def __getattr__(self, name: str) -> Any:
        raise BrokenField


def _raise(*_: Any) -> Any:
    raise BrokenField


for _name in (
    "eq ne lt le gt ge hash bool str repr format fspath iter len contains getitem "
    "or ror add radd sub rsub mul rmul truediv rtruediv floordiv rfloordiv mod rmod neg int float index"
).split():
    setattr(_Broken, f"__{_name}__", _raise)

BROKEN: Any = _Broken()
"""Stands where a part of the recipe is missing or wrong."""


def lenient_recipe(tree: dict) -> Recipe:
    """Builds a recipe in which every part that is missing or wrong is `BROKEN`."""
    return _construct(Recipe, tree)


def _construct(annotation: Any, value: Any) -> Any:
    try:
        return TypeAdapter(annotation).validate_python(value)
    except ValidationError:
        pass
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) is dict and isinstance(value, dict):
        item_type = get_args(annotation)[1]
        return {str(key): _construct(item_type, item) for key, item in value.items()}
    section = _section(annotation, value)
    if section is None or not isinstance(value, dict):
        return BROKEN
    return section.model_construct(
        **{
            name: _validated(section, name, _construct_field(field, name, value))
            for name, field in section.model_fields.items()
        }
    )


def _construct_field(field: FieldInfo, name: str, tree: dict) -> Any:
    if name not in tree:
        return BROKEN if field.is_required() else field.get_default(call_default_factory=True)
    annotation = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    return _construct(annotation, tree[name])


def _validated(section: type[Section], name: str, value: Any) -> Any:
    """What a section's own validators make of a field's value."""
    for validator in section.__pydantic_decorators__.field_validators.values():
        if value is not BROKEN and {"*", name} & set(validator.info.fields):
            try:
                value = getattr(section, validator.cls_var_name)(value)
            except BrokenField:  # a part of it is
                continue
            except ValueError:
                return BROKEN
    return value


def _section(annotation: Any, value: Any) -> type[Section] | None:
    """The section that a mapping is meant to be: of several, the one whose `type` it names."""
    if get_origin(annotation) in (tuple, list):  # a mapping in the place of a list of them
        return None
    options = [
        option
        for option in (get_args(annotation) or (annotation,))
        if isinstance(option, type) and issubclass(option, Section)
    ]
    if len(options) > 1:
        kind = value.get("type") if isinstance(value, dict) else None
        options = [option for option in options if kind in get_args(option.model_fields["type"].annotation)]
    return options[0] if options else None
