# Two commands: `make demo` runs the main job from end to end, `make test` proves the house.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all lint types catalogue docs clean

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

# every system in the place of one small variant a paper, and the guide's long examples: some hours
test-all: .venv/test .venv/docs lint types
	VITRAIL_ALL=1 VITRAIL_TEST_ALL=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: .venv/test
	$(BIN)/ruff check .

types: .venv/test
	$(BIN)/mypy

.venv/docs: pyproject.toml constraints.txt | .venv/made
	$(BIN)/pip install -q -c constraints.txt -e '.[docs]'
	touch $@

# the generated pages first: those of a changed file are rewritten, and git shows them
docs: .venv/docs
	$(BIN)/python tools/docs.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open site/index.html"

catalogue: .venv/test
	$(BIN)/python tools/catalogue.py

clean:
	rm -rf .venv runs site build dist *.egg-info
