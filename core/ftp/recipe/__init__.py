"""Recipes: their model, reading them with every mistake reported at once, and their JSON schema."""

from __future__ import annotations

from ftp.recipe.model import Recipe
from ftp.recipe.read import read
from ftp.recipe.schema import json_schema

__all__ = ["Recipe", "json_schema", "read"]
