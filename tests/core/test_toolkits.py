"""The toolkits say what is in them."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["data", "lm", "stats"])
def test_the_package_and_the_page_name_every_module(name):
    package = importlib.import_module(f"ftp.{name}")
    modules = {file.stem for file in Path(package.__file__).parent.glob("*.py")} - {"__init__"}
    assert sorted(module for module in modules if f"- `{module}`: " not in package.__doc__) == []
    page = (ROOT / "docs" / "toolkits.md").read_text(encoding="utf-8")
    part = page.split(f"## ftp.{name}\n")[1].split("\n## ")[0]
    if name != "stats":  # its functions are imported into the package
        assert sorted(module for module in modules if f"`{module}`" not in part) == []
    else:
        assert sorted(public for public in package.__all__ if f"`{public}`" not in part) == []
