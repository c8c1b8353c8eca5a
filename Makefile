# What there is to run from a checkout. Needs python3 (3.11 or newer), make and PyPI; uses uv where it is installed.
# Stamps in .venv make the second run install nothing, unless pyproject.toml or a lock file has changed.

.PHONY: demo test check audit docs bench fuzz conformance-vllm proto lock format clean help
.DEFAULT_GOAL := help

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
UV := $(shell command -v uv 2>/dev/null)
VENV := .venv
PY := $(VENV)/bin/python
INSTALL := $(if $(UV),$(UV) pip install -q --python $(PY),$(PY) -m pip install -q --disable-pip-version-check)
ARGS ?=

help:
	@echo 'make demo    gateway and simulated engines on this machine, until Ctrl-C   (ARGS="--http 127.0.0.1:8000")'
	@echo 'make test    every test that needs PyPI and this machine only               (ARGS="tests/gateway -k sse")'
	@echo 'make check   formatting, lint, types, import rules, sizes, lock, licences, secrets, docs, what is generated, chart'
	@echo 'make audit   what the package index knows of versions that are vulnerable, as far as it says'
	@echo 'make docs    the documentation as a site in .cache/site'
	@echo 'make bench   benchmarks, as ratios against what else is installed'
	@echo 'make fuzz    what reads bytes from outside, a minute each                      (ARGS="--seconds 600 --only sse")'
	@echo 'make soak    10,000 streams while engines are killed, none lost or false     (ARGS="--streams 500 --seed 7")'
	@echo 'make conformance-vllm   the suite against a real vLLM on this CPU, 4 GB to install   (ARGS="--version 0.31.0")'
	@echo 'make format  let ruff format the source'
	@echo 'make proto   generate again what is made of .proto files, adapters and resources'
	@echo 'make lock    resolve requirements/*.txt again from pyproject.toml'
	@echo 'make clean   remove the environment and the caches'

demo: $(VENV)/.run
	@$(VENV)/bin/infer-gateway demo $(ARGS)

test: $(VENV)/.test
	$(PY) tools/run_tests.py $(ARGS)

check: $(VENV)/.check $(VENV)/.docs
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports
	$(PY) tools/size_check.py
	$(PY) tools/lock_check.py
	$(PY) tools/generate_sbom.py --check
	$(PY) tools/audit.py
	$(PY) tools/secret_check.py
	$(PY) tools/docs_check.py
	$(PY) tools/generate_crds.py --check
	$(PY) tools/generate_values_schema.py --check
	$(PY) tools/generate_metrics.py --check
	$(PY) tools/generate_dashboards.py --check
	$(PY) tools/generate_reference.py --check
	$(PY) tools/helm.py lint
	@$(MAKE) --no-print-directory docs

# Asks the package index what it knows of each version in the locks; one that does not say is told of and fails nothing.
audit: $(VENV)/.check
	$(PY) -m venv .cache/audit
	.cache/audit/bin/python -m pip install -q --disable-pip-version-check pip-audit
	.cache/audit/bin/python tools/audit.py --ask

# From scratch each time: what is read again only where it has changed would not be complained of twice.
docs: $(VENV)/.docs
	$(PY) -m sphinx -q -E -W --keep-going -b html -d .cache/doctrees docs .cache/site
	@echo 'docs: .cache/site/index.html'

bench: $(VENV)/.run
	$(PY) benchmarks/run.py $(ARGS)

fuzz: $(VENV)/.fuzz
	$(PY) -m tests.fuzz.run $(ARGS)

soak: $(VENV)/.test
	$(PY) -m tests.soak $(ARGS)

conformance-vllm: $(VENV)/.test
	$(PY) tools/real_engines.py vllm $(ARGS)

format: $(VENV)/.check
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

proto: $(VENV)/.test
	for tool in tools/generate_*.py; do $(PY) $$tool || exit 1; done

# --- the environment ---------------------------------------------------------------------------------------------

$(VENV)/.made:
	@test -n "$(UV)$(PYTHON)" || { echo 'no Python 3.11 or newer found; name one: make PYTHON=/path/to/python3 …' >&2; exit 1; }
	$(if $(UV),$(UV) venv -q --allow-existing --python $(or $(PYTHON),'>=3.11') $(VENV),$(PYTHON) -m venv $(VENV))
	@touch $@

# Locks first, then the project itself without resolving anything: hatchling comes from the lock too.
$(VENV)/.run: $(VENV)/.made pyproject.toml gateway/__init__.py requirements/run.txt
	$(INSTALL) --require-hashes -r requirements/run.txt
	$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

# xds-protos brings an older opentelemetry.proto along, in the place of the one that exporters need: that one comes last.
$(VENV)/.test: $(VENV)/.run requirements/test.txt
	$(INSTALL) --require-hashes -r requirements/test.txt
	@sed -n '/^opentelemetry-proto==/,/^ *# via/p' requirements/test.txt >$(VENV)/last.txt
	$(INSTALL) --no-deps $(if $(UV),--reinstall,--force-reinstall) --require-hashes -r $(VENV)/last.txt
	@touch $@

$(VENV)/.check: $(VENV)/.run requirements/check.txt
	$(INSTALL) --require-hashes -r requirements/check.txt
	@touch $@

$(VENV)/.docs: $(VENV)/.run requirements/docs.txt
	$(INSTALL) --require-hashes -r requirements/docs.txt
	@touch $@

# Nothing where atheris has no wheel: then Hypothesis has to do.
$(VENV)/.fuzz: $(VENV)/.test requirements/fuzz.txt
	$(INSTALL) --require-hashes -r requirements/fuzz.txt
	@touch $@

# The largest set is resolved first and constrains the others, so that every file pins the same versions.
COMPILE = uv pip compile -q --universal --fork-strategy fewest --generate-hashes --no-emit-index-url --no-emit-find-links \
	--custom-compile-command 'make lock' --python-version 3.11
lock:
	@command -v uv >/dev/null || { echo 'make lock needs uv' >&2; exit 1; }
	@mkdir -p .cache
	$(COMPILE) --upgrade pyproject.toml --extra kubernetes --extra otel --group build --group test --group check --group docs -o .cache/lock.txt
	$(COMPILE) --upgrade pyproject.toml --extra kubernetes --extra otel --group build -c .cache/lock.txt -o requirements/run.txt
	$(COMPILE) --upgrade pyproject.toml --extra kubernetes --extra otel --group build --group test -c .cache/lock.txt -o requirements/test.txt
	$(COMPILE) --upgrade pyproject.toml --extra kubernetes --extra otel --group build --group check -c .cache/lock.txt -o requirements/check.txt
	$(COMPILE) --upgrade --group docs -c .cache/lock.txt -o requirements/docs.txt
	$(COMPILE) --upgrade --group fuzz -o requirements/fuzz.txt

clean:
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
