"""`throughline endpoint add`: write a commented `[[endpoints]]` table, every field with its meaning."""

import ast
import inspect
import json
import re
import textwrap
from decimal import Decimal
from pathlib import Path
from typing import get_args

import click
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from channels.contract import EndpointSettings
from channels.registry import CHANNELS, SETTINGS_OF
from router.cli.rim import Fault, Session, out
from router.settings import SETTINGS_FILE

COMMENT_WIDTH = 110
NOT_WRITTEN = frozenset({"id", "provider"})
NAME = re.compile(r"^[a-z0-9][a-z0-9-]{0,39}$")


@click.group()
def endpoint() -> None:
    """The accounts at providers that messages go through."""


@endpoint.command()
@click.argument("provider", type=click.Choice(sorted(set(CHANNELS) - {"console"})))
@click.option("--name", default="main", show_default=True, help="The second half of its id: email/NAME.")
@click.pass_obj
def add(session: Session, provider: str, name: str) -> None:
    """Append a table for PROVIDER to the settings file, to be filled in."""
    if not NAME.match(name):
        raise Fault(f"{name!r} is no name for an endpoint: use lower-case letters, digits and dashes, at most 40.")
    file = session.path or session.file or Path(SETTINGS_FILE).absolute()
    identity = f"{CHANNELS[provider]}/{name}"
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    if f'id = "{identity}"' in before:
        raise Fault(f"{file} already has an endpoint {identity}; nothing was written. Choose another --name.")
    table = write_table(SETTINGS_OF[provider], provider, identity)
    separator = "" if not before else "\n" if before.endswith("\n") else "\n\n"
    with file.open("a", encoding="utf-8") as stream:
        stream.write(separator + table)
    out.print(
        f"Added {identity} to {file}. Fill in what is marked required, then run `throughline doctor`. "
        "A value like ${NAME} is read from that environment variable."
    )


def write_table(model: type[EndpointSettings], provider: str, identity: str) -> str:
    """The TOML text: required fields to fill in, the others commented out with their defaults.

    A line that begins with `#` and no blank is a setting; with a blank it is a comment.
    """
    lines = ["[[endpoints]]", f'id = "{identity}"', f'provider = "{provider}"']
    stem = re.sub(r"[^A-Z0-9]", "_", identity.upper())
    return "\n".join(lines + _fields(model, "endpoints", stem)) + "\n"


def _fields(model: type[BaseModel], path: str, stem: str, comment: str = "") -> list[str]:
    """A model's own fields, then the tables within it, all of which are optional and so commented out."""
    meanings = _meanings(model)
    lines: list[str] = []
    tables: list[str] = []
    fields = [(name, field) for name, field in model.model_fields.items() if name not in NOT_WRITTEN]
    for name, field in sorted(fields, key=lambda pair: not pair[1].is_required()):
        about = [f"# {line}" for line in textwrap.wrap(meanings.get(name, ""), COMMENT_WIDTH)]
        variable = f"{stem}_{name.upper()}"
        if inner := _table_in(field):
            tables += [*about, f"#[{path}.{name}]", *_fields(inner, f"{path}.{name}", variable, "#")]
        else:
            line = _line(name, field, variable)
            lines += [*about, comment + line.removeprefix("#") if comment else line]
    return lines + tables


def _table_in(field: FieldInfo) -> type[BaseModel] | None:
    parts = get_args(field.annotation) or (field.annotation,)
    return next((part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)), None)


def _line(name: str, field: FieldInfo, variable: str) -> str:
    if "SecretStr" in str(field.annotation):
        return f'{"" if field.is_required() else "#"}{name} = "${{{variable}}}"'
    if field.is_required():
        return f'{name} = ""  # required'
    default = _toml(field.get_default(call_default_factory=True))
    return f"#{name} = {default}" if default else f"#{name} ="


def _toml(value: object) -> str:
    """A default as TOML writes it; empty where there is none."""
    if value is None or isinstance(value, SecretStr | BaseModel):
        return ""
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, tuple | list | frozenset):
        return "[" + ", ".join(_toml(part) for part in value) + "]"
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return json.dumps(str(value))


def _meanings(model: type[BaseModel]) -> dict[str, str]:
    """What stands as a docstring under each field, in the model and those it inherits from."""
    found: dict[str, str] = {}
    for owner in reversed(model.__mro__):
        if not (issubclass(owner, BaseModel) and owner is not BaseModel):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
        assert isinstance(body, ast.ClassDef)  # noqa: S101 - getsource of a class is a class
        for here, after in zip(body.body, body.body[1:], strict=False):
            if isinstance(here, ast.AnnAssign) and isinstance(here.target, ast.Name) and isinstance(after, ast.Expr):
                text = after.value.value if isinstance(after.value, ast.Constant) else None
                if isinstance(text, str):
                    found[here.target.id] = " ".join(text.split()).replace("None: ", "Without it: ")
    return found
