# What a checkout can be asked to do. The first call makes .venv from requirements-dev.lock, by hashes, with nothing but
# Python 3.11+; later calls find it ready. ARGS="..." goes on to the command: make up ARGS="--port 8080".

MAKEFLAGS += --no-print-directory
PYTHON ?= python3 python3.14 python3.13 python3.12 python3.11
ARGS ?=
LOCK_OPTIONS := --universal --python-version 3.11 --generate-hashes --upgrade --no-header --quiet

.DEFAULT_GOAL := help
.PHONY: help up test faults bench screenshots venv lint lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

up: venv ## Start everything on this machine; Ctrl-C stops it, the data stays in .aforo
	@exec .venv/bin/aforo up $(ARGS)

test: venv ## Run all tests
	@exec .venv/bin/python -m pytest -n 3 --dist loadfile $(ARGS)

faults: venv ## Try every fault on a whole stack, under an hour (CASE=name, SEED=n, SCALE=0.1, MINUTES=n of soak)
	@exec .venv/bin/python -m tests.fault.suite $(addprefix --case ,$(CASE)) $(addprefix --seed ,$(SEED)) \
	    $(addprefix --scale ,$(SCALE)) $(addprefix --minutes ,$(MINUTES)) $(ARGS)

bench: venv ## Measure against the usual designs, 10 minutes (QUICK=1: 90 seconds; GROWTH=1: as data grow, GROWTH_MAX=n)
	@exec .venv/bin/python -m tests.bench $(if $(QUICK),--quick) $(if $(GROWTH),--growth) \
	    $(addprefix --growth-max ,$(GROWTH_MAX)) $(ARGS)

screenshots: venv ## Make the pictures in docs/ that README shows (needs Chromium)
	@exec .venv/bin/python -m tests.browser.screenshots $(ARGS)

lint: venv ## Check the style of the code
	@exec .venv/bin/ruff check $(ARGS) .

# Each step leaves a fingerprint of what it was made from, written last, so an install that was interrupted, an older
# lock or a checkout that has moved is made anew. The link .venv.lock names the process at work: a second make waits.
venv: ## Make .venv, if it is not there or out of date
	@set -eu; \
	fingerprint() { { pwd; cat "$$@"; } | cksum; }; \
	made() { test -x .venv/bin/python && test "$$(cat ".venv/made-from-$$1" 2>/dev/null)" = "$$(fingerprint "$$1")"; }; \
	ready() { made requirements-dev.lock && made pyproject.toml; }; \
	pip_install() { .venv/bin/python -m pip install -qq --disable-pip-version-check "$$@"; }; \
	if ready; then exit 0; fi; \
	for python in $(PYTHON) ''; do \
	    if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then break; fi; \
	done; \
	if test -z "$$python"; then \
	    echo "Aforo needs Python 3.11 or newer; none found as: $(PYTHON). Name one: make PYTHON=/path/to/python3 ..." >&2; \
	    exit 1; \
	fi; \
	until ln -s "$$$$" .venv.lock 2>/dev/null; do \
	    kill -0 "$$(readlink .venv.lock)" 2>/dev/null || rm -f .venv.lock; \
	    sleep 1; \
	done; \
	trap 'rm -f .venv.lock' EXIT; \
	trap 'exit 130' INT TERM HUP; \
	if ready; then exit 0; fi; \
	if ! made requirements-dev.lock; then \
	    echo "Installing the locked requirements into .venv (once; about a minute) ..."; \
	    "$$python" -m venv --clear .venv; \
	    pip_install --require-hashes --requirement requirements-dev.lock; \
	    fingerprint requirements-dev.lock > .venv/made-from-requirements-dev.lock; \
	fi; \
	pip_install --no-deps --no-build-isolation --no-index --editable .; \
	fingerprint pyproject.toml > .venv/made-from-pyproject.toml

lock: ## Choose the versions anew and write both lock files (for development; needs uv)
	@command -v uv >/dev/null || { echo "make lock needs uv on the PATH." >&2; exit 1; }
	@uv pip compile pyproject.toml $(LOCK_OPTIONS) --output-file requirements.lock
	@uv pip compile pyproject.toml --extra dev --constraint requirements.lock $(LOCK_OPTIONS) --output-file requirements-dev.lock

clean: ## Remove .venv, caches and build leftovers; the data in .aforo stays
	@rm -rf .venv .venv.lock build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .schemathesis
	@for folder in api core ops worker tests; do \
	    test ! -d "$$folder" || find "$$folder" -name __pycache__ -type d -prune -exec rm -rf {} +; \
	done
