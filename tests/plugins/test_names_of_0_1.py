"""Plugins that were written against FTP 0.1 find the names that they imported."""

import pytest


def test_loaders_of_0_1_find_what_they_build_on(ftp_tiny_model):
    from ftp_plugins.loaders import weights

    request = weights.describe(str(ftp_tiny_model))
    loaded = weights.load(
        str(ftp_tiny_model),
        request,
        name="tiny",
        fingerprint=weights.directory_fingerprint(ftp_tiny_model),
        device="cpu",
        attention="auto",
        chat_template=None,
    )
    assert loaded.name == "tiny" and len(loaded.fingerprint) == 64
    assert weights.pick_dtype("mps") == "float32" and weights.pick_device() and weights.grow
    assert weights.load_tokenizer(str(ftp_tiny_model), None).stops
    assert weights.first_line(ValueError("one\ntwo")) == "one"
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        weights.nothing  # noqa: B018
