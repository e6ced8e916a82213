# Everything a fresh Debian machine needs, from packages to proof. Run as root: the demo and half of the tests make
# network namespaces. Each command does its own set-up first and says what it does; nothing is started on the machine.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Debian's own Python: the product supports 3.11 and later.
PYTHON ?= /usr/bin/python3
PYTEST_ARGS ?=
LOCK_ARGS ?=

# sudo and cron may leave little of the path.
export PATH := $(CURDIR)/.venv/bin:$(PATH):/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

# Root's caches would be in the way of the checkout's owner, who runs pytest or ruff without sudo; so they go here.
CACHES := $(CURDIR)/.venv/cache
export RUFF_CACHE_DIR := $(CACHES)/ruff
export MYPY_CACHE_DIR := $(CACHES)/mypy
export HYPOTHESIS_STORAGE_DIRECTORY := $(CACHES)/hypothesis
export CACHES

.NOTPARALLEL:

.PHONY: help
help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

.PHONY: demo
demo: packages-demo .venv/.product ## three hosts, real programs, three failures; under a minute after set-up
	@$(PYTHON) netns-lab/lab demo

.PHONY: setup
setup: packages-test .venv/.development ## Debian packages and a virtual environment for everything below

.PHONY: lint
lint: setup ## style and types
	@echo "== ruff, mypy"
	@ruff check .
	@ruff format --check --quiet . || { ruff format --check .; exit 1; }
	@mypy
	@MYPYPATH=netns-lab mypy -p netlab
	@MYPYPATH=netns-lab:benchmarks:tests mypy benchmarks/*.py
	@MYPYPATH=packaging mypy packaging/*.py
	@mypy docs/generate.py docs/site/hook.py docs/site/pictures.py
	@MYPYPATH=tests:netns-lab:benchmarks mypy $$(find tests -name '*.py' ! -path 'tests/dns/*')
	@MYPYPATH=netns-lab mypy tests/dns/*.py

.PHONY: docs
docs: .venv/.development ## write what the documents list of the code
	@.venv/bin/python docs/generate.py
	@.venv/bin/python docs/site/pictures.py

.PHONY: site
site: .venv/.site ## the documents as a site, in dist/site; fails where a link or an anchor leads nowhere
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --config-file docs/site/mkdocs.yml # with --quiet it counts no warnings, and so refuses nothing
	@echo "== dist/site/index.html"

.PHONY: test
test: setup lint ## all but the long tests, each run the same as far as it only computes
	@echo "== pytest (without the long ones)"
	@PYTHONHASHSEED=0 .ci/tests "not long" $(PYTEST_ARGS)

.PHONY: test-long
test-long: setup lint ## all tests, with new examples; the long cuts and soaks take many minutes
	@echo "== pytest (all)"
	@.ci/tests "" --hypothesis-profile=exploring $(PYTEST_ARGS)

.PHONY: deb
deb: packages-demo .venv/.product ## a Debian package with a Python environment of its own, in dist/
	@.venv/bin/python packaging/deb.py

.PHONY: lock
lock: .venv/.release ## lock a release's libraries by version and hash; with LOCK_ARGS=--upgrade the newest
	@.venv/bin/python packaging/lock.py $(LOCK_ARGS)

.PHONY: sbom
sbom: packages-demo ## which libraries a release contains (CycloneDX), in dist/
	@$(PYTHON) packaging/bill_of_materials.py dist/netagent.cdx.json

.PHONY: audit
audit: .venv/.release ## known vulnerabilities of these: "Error 1" if there are, "Error 3" if nobody could be asked
	@.venv/bin/python packaging/audit.py

.PHONY: image
image: ## a container image, netagent:latest, by podman or docker
	@$$(command -v podman || command -v docker) build --file packaging/Containerfile --tag netagent .

.PHONY: clean
clean: ## remove what the commands above made in this folder
	@rm -rf .venv dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: packages-demo packages-test
packages-demo packages-test: packages-%:
	@.ci/packages $*

.venv/bin/python:
	@echo "== virtual environment .venv, made with $(PYTHON)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "$(PYTHON) is older than 3.11: make PYTHON=/path/to/python3.11 …" >&2; exit 1; }
	@$(PYTHON) -m venv .venv

# Stamps, inside .venv so that they go with it: the Python packages are installed again when pyproject.toml changes.
.venv/.product: pyproject.toml | packages-demo .venv/bin/python
	@echo "== Python packages that netagent needs"
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

.venv/.development: pyproject.toml | packages-test .venv/bin/python
	@echo "== Python packages that netagent and its tests need"
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ .venv/.product

.venv/.release: pyproject.toml | .venv/bin/python
	@echo "== Python packages that lock and audit a release"
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[release]'
	@touch $@

.venv/.site: pyproject.toml | .venv/bin/python
	@echo "== Python packages that make the site"
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@
