"""Recipes as files of TOML."""

import dataclasses
import json
import tomllib
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints, Literal, Union

from nfx._names import did_you_mean
from nfx.recipes._recipe import Recipe
from nfx.recipes._table import get_recipe, starting_recipe


# TOML has no null.
_NONE = "none"


def read_recipe(path: str | Path, *, data: str = "") -> Recipe:
    """Reads a recipe from a file.

    Args:
        path: The file. `recipe = "NAME"` says which recipe its other keys change; without it
            that is "sample", or "folder" if the data is another.
        data: The images, if the file does not say: they choose the recipe to start from.

    Raises:
        ValueError: If there is no such file, it is not TOML, or keys are unknown or of the wrong
            type, which are all listed.
    """
    path = Path(path).expanduser()
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"Cannot read the recipe {str(path)!r}: {error.strerror}.") from error
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is not TOML: {error}.") from error
    name = content.pop("recipe", None) or starting_recipe(str(content.get("data", data)))
    if not isinstance(name, str):
        raise ValueError(f"The recipe {str(path)!r} starts from {name!r}, which is not a name.")
    base, values = get_recipe(name), _checked(path, content)
    try:
        return dataclasses.replace(base, **values)
    except ValueError as error:
        raise ValueError(f"{error} It is in {str(path)!r}.") from error


def recipe_to_toml(recipe: Recipe) -> str:
    """Renders all fields of a recipe, so that `read_recipe` gives the same again."""
    fields = dataclasses.asdict(recipe).items()
    return "".join(f"{name} = {_literal(value)}\n" for name, value in fields)


def _literal(value: Any) -> str:
    """A value in TOML, which has JSON's strings, booleans and lists, but for two details.

    Raises:
        ValueError: If it is a path in no encoding: TOML is Unicode.
    """
    if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError(
            f"{value!r} is in no encoding, and a recipe is written as Unicode: rename the folder."
        )
    if isinstance(value, float):
        return repr(value)
    text = json.dumps(_NONE if value is None else value, ensure_ascii=False)
    return text.replace("\x7f", "\\u007f")


def _checked(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    hints = get_type_hints(Recipe)
    fields = {field.name: hints[field.name] for field in dataclasses.fields(Recipe)}
    values, problems = {}, []
    for name, value in content.items():
        if name not in fields:
            problems.append(f"there is no {name!r}. {did_you_mean(name, fields)}")
            continue
        try:
            values[name] = _converted(value, fields[name])
        except TypeError:
            problems.append(f"{name} = {value!r} is not {_described(fields[name])}")
    if problems:
        raise ValueError(f"The recipe {str(path)!r} cannot be used: {'; '.join(problems)}.")
    return values


def _converted(value: Any, hint: Any) -> Any:
    """The value as a field takes it; raises a `TypeError` if it is of another type."""
    choices = get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        if value == _NONE and types.NoneType in choices:
            return None
        return _converted(value, next(each for each in choices if each is not types.NoneType))
    if get_origin(hint) is tuple and isinstance(value, list):
        return tuple(_converted(each, choices[0]) for each in value)
    if hint is float and type(value) is int:
        return float(value)
    if (value in choices) if get_origin(hint) is Literal else (type(value) is hint):
        return value
    raise TypeError


def _described(hint: Any) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, get_args(hint)))
    if get_origin(hint) is tuple:
        return f"a list of {_described(get_args(hint)[0])}"
    if get_origin(hint) in (Union, types.UnionType):
        return f"{_described(get_args(hint)[0])} or {_NONE!r}"
    return names[hint]
