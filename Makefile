# make demo: the whole path on the bundled model, in a few minutes. make test: the tests.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed

.PHONY: demo test lint docs nano clean

demo: $(STAMP)
	$(BIN)/whet run recipes/demo.yaml --out out/demo
	$(BIN)/python recipes/load_export.py out/demo

test: $(STAMP)
	$(BIN)/python -m pytest -n 2

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP)
	$(BIN)/pdoc whet --docformat google -o site

nano: $(STAMP)
	$(BIN)/whet run recipes/nano.yaml --out out/nano

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) out site
