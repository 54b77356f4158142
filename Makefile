# The two commands of the README are `make demo` and `make test`; `make check` is the fast loop.
PYTHON ?= python3
VENV ?= .venv
# Server tests wait more than they compute: three at a time fill two cores. The longest go first, and nobody is idle at
# the end.
WORKERS ?= 3
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# Thousands of planrunner processes: each would compile all of it where the environment forbids to keep the bytecode.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test test-matrix soak coverage mutation servers check types unit bench bench-pause bench-compare bench-preflight bench-workers bench-growth bench-flushes docs docs-site clean

demo: $(VENV)/.sandbox
	$(BIN)/planrunner demo $(DEMO_ARGS)

test: check servers test-release
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadgroup tests/faults tests/acceptance tests/benchmarks tests/contract tests/integration

.PHONY: lock release executable image release-notes test-release test-pythons

# What a release consists of, tried: the wheel installed three ways, the executable where there is no Python, the shells,
# the man page, the locks, the image's recipe, and a migration on each Python that this machine has. Building waits more
# than it computes: plans are fuzzed at length beside it.
test-release: $(VENV)/.release servers
	PLANRUNNER_FUZZED_PLANS=20000 $(BIN)/python -m pytest -q -n 3 --dist loadfile tests/release \
	  tests/unit/loading/test_fuzz_plans.py tests/unit/loading/test_dialects.py

# Every Python of the range with its unit tests; e.g. PYTHONS_ARGS=3.14. Some minutes.
test-pythons: $(VENV)/.release
	$(BIN)/python -m release.pythons --all $(PYTHONS_ARGS)

# Every pair of a source and a target of the same or a later major.
test-matrix: servers
	$(BIN)/python -m pytest -q -n 2 --matrix tests/acceptance/test_matrix.py

# Every fault test, those that only run here too, then random faults over whole migrations for hours. Each prints its
# seed and how to replay it; e.g. SOAK_ARGS='--hours 8', or PLANRUNNER_SEED=7 for one seed alone.
soak: servers
	PLANRUNNER_SOAK=1 $(BIN)/python -m tests.faults.soak $(if $(PLANRUNNER_SEED),--seeds 1 --seed $(PLANRUNNER_SEED),$(if $(SOAK_ARGS),$(SOAK_ARGS),--tests))

# Line and branch coverage of what must lose nothing (see pyproject.toml); fails under 100 %. Some minutes.
COVERED := tests/unit/state tests/unit/replication/test_copy_statements.py tests/contract/test_state_store.py \
  tests/contract/test_state_home.py $(patsubst %,tests/integration/replication/test_%.py,ledger workspace courier copy fence crossing cutover)

coverage: $(VENV)/.dev
	mkdir -p build/coverage
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -q $(COVERED)
	$(BIN)/coverage combine -q
	$(BIN)/coverage report --fail-under=100 -m

# Small faults put into the same modules, in a copy of the tree: which of them the tests notice. Fails under 85 %. Hours;
# e.g. MUTATION_ARGS='ledger --seed 7 --sample 10'.
mutation: servers
	$(PIP) -e '.[mutation]'
	$(BIN)/python -m tests.mutation $(MUTATION_ARGS)

# Servers of the majors that the sandbox wheel lacks, for the tests only.
servers: $(VENV)/.dev
	$(BIN)/python -m tests.servers

# The type checkers use one core; the unit tests run beside them.
check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(MAKE) --no-print-directory -j2 --output-sync types unit

types: $(VENV)/.dev
	$(BIN)/mypy
	$(BIN)/basedpyright

unit: $(VENV)/.dev
	$(BIN)/python -m pytest -q -n 2 tests/unit

# Against pgcopydb and pg_dump; e.g. BENCH_ARGS='--case a --rounds 1 --scale 0.1'. At full size it takes an hour.
bench: $(VENV)/.dev
	$(BIN)/python -m tests.benchmarks.run $(BENCH_ARGS)

# The write pause of a cutover behind PgBouncer; e.g. PAUSE_ARGS='--rounds 3 --tables 20'.
bench-pause: $(VENV)/.dev
	$(BIN)/python -m tests.benchmarks.pause $(PAUSE_ARGS)

# Comparing both sides, against pgcopydb and reladiff; e.g. COMPARE_ARGS='--reladiff PROGRAM'. Some minutes.
bench-compare: $(VENV)/.dev
	$(BIN)/python -m tests.benchmarks.compare $(COMPARE_ARGS)

# A copy by 1, 2 and 4 workers, each on a line of 10 MB/s; under two minutes. E.g. WORKERS_ARGS='--rounds 3'.
bench-workers: $(VENV)/.dev
	$(BIN)/python -m tests.benchmarks.workers $(WORKERS_ARGS)

# What is asked, run and told of 1,000 and 10,000 tables, and of copies in 10,000 and 100,000 parts. Half an hour, or
# e.g. GROWTH_ARGS='--case tables --tables 1000 --rounds 1'.
bench-growth: servers
	$(BIN)/python -m tests.benchmarks.growth $(GROWTH_ARGS)

# What a flush for each applied transaction costs, and what PostgreSQL loses without. Two minutes.
bench-flushes: $(VENV)/.dev
	$(BIN)/python -m tests.benchmarks.flushes $(FLUSHES_ARGS)

# The whole preflight at 10 and at 10,000 tables: seconds, and the number of queries; e.g. PREFLIGHT_ARGS='--tables 2000'.
bench-preflight: $(VENV)/.dev
	$(BIN)/python -m tests.benchmarks.preflight $(PREFLIGHT_ARGS)

# What is installed by whom, each file with its hash: the versions of constraints.txt. After a change there or of
# pyproject.toml. No index is named in them.
UV_COMPILE := -m uv --quiet pip compile --generate-hashes --universal --no-header --no-annotate --no-emit-index-url -c constraints.txt
lock: $(VENV)/.release
	$(BIN)/python $(UV_COMPILE) pyproject.toml -o locks/runtime.txt
	$(BIN)/python $(UV_COMPILE) pyproject.toml --extra sandbox -o locks/sandbox.txt
	$(BIN)/python $(UV_COMPILE) pyproject.toml --extra executable -o locks/executable.txt
	$(BIN)/python $(UV_COMPILE) release/build.in -o locks/build.txt
	$(MAKE) docs

# All that is published, in dist/.
release: executable
	$(BIN)/python -m build --installer uv
	cp sbom.cdx.json dist/

# One file for Linux that needs no Python, in dist/.
executable: $(VENV)/.release
	$(BIN)/python -m release.executable

# Needs docker, or ENGINE=podman.
ENGINE ?= docker
image:
	$(ENGINE) build --tag planrunner .

# What the fragments in changelog.d come to.
release-notes: $(VENV)/.release
	$(BIN)/towncrier build --draft --version next

# What is generated: the JSON Schemas, the reference pages, the man page, the bill of materials; tests compare them.
docs: $(VENV)/.release
	$(BIN)/python -m release.shared
	$(BIN)/python -m release.licences
	$(BIN)/python -m release.bill
	$(BIN)/python -m planrunner.loading.reference
	$(BIN)/python -m planrunner.fleet.reference
	$(BIN)/python -m planrunner.linting.page
	$(BIN)/python -m planrunner.check_pages
	$(BIN)/python -m typer planrunner.cli.main utils docs --name planrunner --title "The commands" --output docs/reference/commands.md

# The pages as a site in build/site; a broken link fails.
docs-site: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.sandbox: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e '.[sandbox]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e '.[sandbox,dask,dev,docs]'
	touch $@ $(VENV)/.sandbox

$(VENV)/.release: $(VENV)/.dev
	$(PIP) -e '.[executable,release]'
	touch $@

clean:
	rm -rf $(VENV) .servers .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
