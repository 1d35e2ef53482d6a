# Two commands: `make demo` runs the main job from end to end, `make test` proves the house.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint types catalogue clean

.venv/made:
	$(PYTHON) -m venv .venv
	touch $@

.venv/demo: pyproject.toml constraints.txt | .venv/made
	$(BIN)/pip install -q -c constraints.txt -e '.[demo]'
	touch $@

.venv/test: pyproject.toml constraints.txt | .venv/made
	$(BIN)/pip install -q -c constraints.txt -e '.[test]'
	touch $@ .venv/demo

demo: .venv/demo
	$(BIN)/python -m vitrail.recipes.demo

test: .venv/test lint types
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: .venv/test
	$(BIN)/ruff check .

types: .venv/test
	$(BIN)/mypy

catalogue: .venv/test
	$(BIN)/python tools/catalogue.py

clean:
	rm -rf .venv runs build dist *.egg-info
