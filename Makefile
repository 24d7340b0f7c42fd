# `make quickstart` and `make test` need only Python >= 3.11, git and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
MAJOR_MINOR := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
CONSTRAINTS := constraints/python$(MAJOR_MINOR).txt
WORKDIR ?= runs/quickstart

.PHONY: quickstart test install install-test lint docs bench clean

quickstart: install
	$(BIN)/oxyrec quickstart --workdir $(WORKDIR) --whole

test: install-test lint
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

lint: install-test
	$(BIN)/python -m flake8 oxyrec_jax experiments benchmarks tests
	$(BIN)/python -m mypy

# Warnings are errors: a page that names what is not there is not built.
docs: install-test
	$(BIN)/python -m sphinx --fail-on-warning --keep-going -b html docs build/docs
	@echo "open build/docs/index.html"

install: $(VENV)/.installed
install-test: $(VENV)/.installed-test

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# A constraints file pins the versions the suite was last run with on that Python;
# a Python without one gets the newest releases that setup.cfg allows.
$(VENV)/.installed: setup.cfg pyproject.toml $(wildcard $(CONSTRAINTS)) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[train,store]' $(if $(wildcard $(CONSTRAINTS)),-c $(CONSTRAINTS))
	touch $@

$(VENV)/.installed-test: setup.cfg pyproject.toml $(wildcard $(CONSTRAINTS)) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test]' $(if $(wildcard $(CONSTRAINTS)),-c $(CONSTRAINTS))
	touch $@ $(VENV)/.installed

$(VENV)/.installed-bench: setup.cfg pyproject.toml | $(VENV)/.installed-test
	$(BIN)/python -m pip install --quiet --editable '.[test,bench]'
	touch $@

bench: $(VENV)/.installed-bench
	$(BIN)/python benchmarks/run_all.py --quick --peer

clean:
	rm -rf $(VENV) build dist *.egg-info
