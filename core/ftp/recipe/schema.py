"""The JSON schema of recipes."""

from __future__ import annotations

from typing import Any

from ftp.plugins import Plugins
from ftp.recipe.model import Recipe
from ftp.slots import block_schema


def json_schema(plugins: Plugins) -> dict[str, Any]:
    """Return the JSON schema (Draft 2020-12) of recipes for what is installed."""
    schema = block_schema(Recipe, plugins)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "FTP recipe"}
