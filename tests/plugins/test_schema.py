"""The schema of recipes for the built-in components, and the templates of `ftp init`."""

from pathlib import Path

import jsonschema
import pytest

from ftp import plugins, recipe, yaml_source


@pytest.fixture(scope="module")
def installed():
    return plugins.load()


def test_the_schema_helps_with_every_option(installed):
    schema = recipe.json_schema(installed)
    blocks = [block for block in [schema, *schema["$defs"].values()] if "properties" in block]
    assert len(blocks) > 15
    lacking = [
        f"{block['title']}.{name}"
        for block in blocks
        for name, option in block["properties"].items()
        if not option.get("description")
    ]
    assert lacking == []


def test_every_template_is_valid_against_the_schema(installed):
    validator = jsonschema.Draft202012Validator(recipe.json_schema(installed))
    templates = sorted((Path(recipe.__file__).parents[1] / "templates").glob("*.yaml"))
    assert len(templates) >= 4
    for template in templates:
        parsed = yaml_source.parse(template.read_text(encoding="utf-8"), template.name)
        assert [error.message for error in validator.iter_errors(parsed.data)] == [], template.name
