"""Settings in YAML files: read as they are meant, and held against a schema as a whole.

A setting that makes no sense is refused in one line: the file, the setting, what it must be, and
what it is. Knows no torch.
"""

import re
from pathlib import Path
from typing import Annotated, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def name(text):
    """A name becomes a file's and a parameter's: it must be no path, and text to YAML as well."""
    # As YAML 1.2, which files here are, and as YAML 1.1, as papermill reads its parameters.
    if not NAME.fullmatch(text) or {type(_yaml().load(text)), type(yaml.safe_load(text))} != {str}:
        raise ValueError(
            "must be a name: letters, digits, '.', '_' and '-', a letter or digit first, "
            "and nothing that YAML takes for a number or a truth value"
        )
    return text


def names(text):
    """Names with '+' between them."""
    for part in text.split("+"):
        name(part)
    return text


Name = Annotated[str, AfterValidator(name)]
Sum = Annotated[str, AfterValidator(names)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
Number = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Schema(BaseModel):
    """Nothing is converted but integers to the floats that they are, nothing is left over."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


def read(path):
    """What a YAML file holds, by YAML 1.2: `yes` is a word, and no key is there twice.

    Raises ValueError, naming the file, for what is no YAML file of settings by name.
    """
    path = Path(path)
    try:
        found = _yaml().load(path.read_text(encoding="utf-8"))
    except IsADirectoryError as error:
        raise ValueError(f"{path} is a folder, not a file of settings") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error.reason}") from error
    except YAMLError as error:
        raise ValueError(f"{path} is no YAML: {_problem(error)}") from error
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise ValueError(f"{path} must hold settings by name")
    return found


def fit(schema, settings, where):
    """The settings as the schema has them, a dict. ValueError that says `where` and what is wrong.

    A schema is a subclass of Schema; defaults are filled in.
    """
    try:
        return schema.model_validate(settings).model_dump(by_alias=True)
    except ValidationError as error:
        first, *rest = error.errors(include_url=False)
        more = f" (and {len(rest)} more)" if rest else ""
        raise ValueError(f"{where}: {_line(schema, first)}{more}") from error


def _line(schema, error):
    at = [str(part) for part in error["loc"] if not str(part).startswith(("function-", "tuple["))]
    if error["type"] in ("extra_forbidden", "missing"):
        *above, setting = at
        what = "is missing" if error["type"] == "missing" else "is not a setting"
        expected = ", ".join(_fields(schema, above))
        return ": ".join([*above, f"{setting!r} {what}; expected {expected}"])
    says = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return f"{': '.join(at)}: {says}, got {error['input']!r}"


def _fields(schema, path):
    """The names of the settings of the section at `path`."""
    for part in path:
        kinds = [schema.model_fields[part].annotation] if part in schema.model_fields else []
        kinds += [kind for one in kinds for kind in get_args(one)]
        schema = next((k for k in kinds if isinstance(k, type) and issubclass(k, Schema)), schema)
    return sorted(field.alias or name for name, field in schema.model_fields.items())


def _yaml():
    return YAML(typ="safe", pure=True)


def _problem(error):
    if not isinstance(error, MarkedYAMLError):
        return " ".join(str(error).split())
    line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
    return f"{' '.join(str(error.problem).split())}{line}"
