"""The part of pydantic that describes a model's build, for folders that are read without it; it checks nothing.

An exported folder has this file in pydantic's place. It makes of the JSON in ``config.json`` and ``task.json`` objects
of the classes that wrote it.
"""

import inspect
from collections.abc import Callable
from types import UnionType
from typing import Annotated, Any, ClassVar, Self, Union, get_args, get_origin, get_type_hints


class ValidationError(Exception):
    """Never raised here."""

    def errors(self) -> list[dict[str, Any]]:
        """None."""
        return []


class _Default:
    """What a field is if nothing is said of it."""

    def __init__(self, value: Any):
        self.value = value


def Field(default: Any = None, **_: Any) -> Any:  # noqa: N802 (as pydantic calls it)
    """A field with a default; its bounds and descriptions were used when the folder was made."""
    return _Default(default)


def ConfigDict(**given: Any) -> dict[str, Any]:  # noqa: N802 (as pydantic calls it)
    """As given."""
    return given


def field_validator(*_: Any, **__: Any) -> Callable[[Any], Any]:
    """Leaves what it decorates unused."""
    return lambda function: function


model_validator = field_validator


class BaseModel:
    """Fields by name, from JSON."""

    model_config: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls, **_: Any) -> None:
        for name in inspect.get_annotations(cls):
            if isinstance(value := cls.__dict__.get(name), _Default):
                setattr(cls, name, value.value)

    def __init__(self, **given: Any):
        for name, hint in get_type_hints(type(self)).items():
            if get_origin(hint) is not ClassVar:
                value = given[name] if name in given else getattr(type(self), name)
                self.__dict__[name] = _built(hint, value)

    def model_copy(self, *, update: dict[str, Any]) -> Self:
        """The same with some fields changed."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__ | update)
        return other

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash((type(self), repr(self)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__dict__.items())})"


class TypeAdapter:
    """Objects of a type, from JSON."""

    def __init__(self, kind: Any):
        self.kind = kind

    def validate_python(self, content: Any) -> Any:
        """The object that JSON describes."""
        return _built(self.kind, content)


def _built(hint: Any, value: Any) -> Any:
    """A value of JSON as its type has it: objects by their ``kind``, lists as tuples."""
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    options = [hint]
    if get_origin(hint) in (Union, UnionType):
        options = [part for option in get_args(hint) for part in _parts(option)]
    if isinstance(value, dict):
        for option in options:
            kind = value.get("kind")
            if isinstance(option, type) and issubclass(option, BaseModel) and getattr(option, "kind", kind) == kind:
                return option(**value)
    if isinstance(value, list):
        for option in options:
            if get_origin(option) is tuple:
                inner = get_args(option)
                each = inner[:1] * len(value) if inner[1:] == (...,) else inner
                return tuple(_built(kind, part) for kind, part in zip(each, value, strict=True))
    return value


def _parts(option: Any) -> list[Any]:
    """A union within a union is one of all."""
    while get_origin(option) is Annotated:
        option = get_args(option)[0]
    if get_origin(option) in (Union, UnionType):
        return [part for inner in get_args(option) for part in _parts(inner)]
    return [option]
