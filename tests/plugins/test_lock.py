"""What the lock of a run says of the built-in components."""

from ftp import plugins
from ftp.provenance.fingerprints import packages_of
from ftp.recipe.read import read


def test_the_lock_names_the_packages_that_the_components_require(ftp_recipe):
    recipe = read(ftp_recipe(evaluate=[{"use": "rouge"}]), plugins.load())
    found = {name.replace("_", "-") for name in packages_of(recipe)}
    assert {"torch", "transformers", "peft", "trl", "scipy", "rouge-score"} <= found
    assert "openai" not in found and "bitsandbytes" not in found
