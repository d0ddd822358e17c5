# `make repro` and `make test` are the two commands; each sets up .venv by itself.
PYTHON ?= python3
BIN := .venv/bin
# tests of one file stay in one process; the files begin in the order of tests/conftest.py
SPREAD ?= -n 2 --dist loadfile --no-loadscope-reorder
# what `pricer init` takes over from here as it is
COPIES := dvc.yaml .env.example .dvc/plots/bars.json docs/params.md examples/products.jsonl metrics/api/README.md
# the stages and DVC find the environment's own python first
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help repro test test-fast test-llama3 test-cuda bench lint audit pictures format clean clean-checkpoints
.DEFAULT_GOAL := help

help:  ## show this list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

repro: .venv/ready  ## run the pipeline: fetch, prompts, train, predict, evaluate
	@dvc repro
	@sed '/^## /,$$d' metrics/report.md
	@git diff --quiet HEAD -- metrics || echo "Not the committed results to the last digit, as on \
another CPU: \`pricer compare HEAD\` tells chance from a real change."

test: .venv/ready  ## run the tests, pipelines included
	@python -m pytest $(SPREAD)

test-fast: .venv/ready  ## run the tests without pipelines, training, servers and commands
	@python -m pytest $(SPREAD) -m 'not slow and not llama3 and not cuda'

test-llama3: .venv/ready  ## run the tests on the real Llama-3 vocabulary (7 MB, fetched)
	@python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt tiktoken
	@python -m pytest -m llama3

test-cuda: .venv/ready  ## run the tests that need a GPU
	@python -m pytest -m cuda

bench: .venv/ready  ## time evidence, prompts, training, prediction, serving, monitoring, evaluation, backup, Ray, on what `make repro` left
	@python -m bench.evidence
	@python -m bench.prompts
	@python -m bench.predict
	@python -m bench.serve
	@python -m bench.monitor
	@python -m bench.evaluate
	@python -m bench.train
	@python -m bench.backup
	@python -m bench.ray

lint: .venv/ready  ## check style, types, and that what is made or copied is up to date
	@ruff check .
	@ruff format --check .
	@mypy
	@python docs/make_params.py --check
	@python notebooks/make.py --check
	@for file in $(COPIES); do cmp "$$file" "pricer/project/$$file" || exit 1; done
	@python docs/make_pictures.py --check

# in an environment of its own: what it needs is no part of the project
audit: .venv/ready  ## look up known vulnerabilities of the pinned packages (asks pypi.org)
	@$(PYTHON) -m venv .venv/audit
	@.venv/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	@.venv/audit/bin/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip

# on what `make repro` left; needs /usr/bin/chromium
pictures: .venv/ready  ## make docs/pictures anew, and what commands print in docs/questions
	@python docs/make_pictures.py

format: .venv/ready  ## fix style, make docs/params.md, the notebook and the copies in pricer/project
	@ruff check --fix .
	@ruff format .
	@python docs/make_params.py
	@python notebooks/make.py
	@for file in $(COPIES); do cp "$$file" "pricer/project/$$file"; done

clean-checkpoints:  ## remove what interrupted training runs would resume from
	rm -rf .checkpoints

clean:  ## remove the environment and tool caches; data, metrics and the DVC cache stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find pricer tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Set up once, and again when the pins change. `ready` is written last, so a broken set-up is redone.
.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"pricer needs Python 3.11, 3.12 or 3.13, got {v[0]}.{v[1]}: run make PYTHON=/path/to/python3.12")'
	@echo "setting up .venv (a minute or two, once)"
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@
