"""Templates: one frozen model in, text out.

A template sees its model and nothing else, and fails on a name the model does not have. What it
puts into YAML goes through the filter `to_yaml`.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from appliance.errors import RenderError
from appliance.yamltext import PlainDumper

if TYPE_CHECKING:
    import jinja2
    from _typeshed import DataclassInstance

HEADER = "Written by oneke-agent from {template}; local changes will be overwritten."


def to_yaml(value: object) -> str:
    """Write a value as one line of YAML that means this value wherever it stands.

    Texts are quoted always, so that none is taken for a number, a comment or the end of a block.
    """
    text: str = yaml.dump(
        [value],
        Dumper=_OneLineDumper,
        default_flow_style=True,
        sort_keys=True,
        width=math.inf,
    )
    return text.strip()[1:-1]


def to_base64(text: str) -> str:
    """Write a text as Kubernetes' Secrets hold it."""
    return base64.b64encode(text.encode()).decode("ascii")


class _OneLineDumper(PlainDumper):
    """Quotes every text."""


_OneLineDumper.add_representer(
    str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')
)


def render(folders: Sequence[Path], template: str, model: DataclassInstance) -> str:
    """Render a template.

    Args:
        folders: Where to look for `templates/<template>`, the first that has it wins.
        template: The file's name, `.j2` included.
        model: A frozen dataclass; its fields are the names the template may use, besides `header`.

    Raises:
        RenderError: The template is missing, malformed, or names what the model does not have;
            file, line and name are told.
    """
    import jinja2  # only where something is rendered

    environment = _make_environment(tuple(folders))
    values: dict[str, Any] = {field.name: getattr(model, field.name) for field in fields(model)}
    try:
        return environment.get_template(template).render(
            values, header=HEADER.format(template=f"{folders[-1].name}/{template}")
        )
    except jinja2.TemplateNotFound as error:
        raise RenderError(f"{template}: no such template in {folders[-1]}") from error
    except jinja2.TemplateSyntaxError as error:
        raise RenderError(f"{template}, line {error.lineno}: {error.message}") from error
    except jinja2.UndefinedError as error:
        raise RenderError(f"{template}: {error.message}") from error


@cache
def _make_environment(folders: tuple[Path, ...]) -> jinja2.Environment:
    """Return the environment of these folders; it keeps what it compiled until that changes."""
    import jinja2  # only where something is rendered

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([str(folder / "templates") for folder in folders]),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701  # configuration files, not HTML
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["to_yaml"] = to_yaml
    environment.filters["to_base64"] = to_base64
    return environment
