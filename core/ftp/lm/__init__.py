"""Toolkit for language models: rendering, tokens, packing, losses and answers.

Modules named `torch_*.py` import torch; import them inside functions.
"""
