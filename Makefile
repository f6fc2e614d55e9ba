# `make demo` and `make test` need nothing but Python 3.11 or newer and make; everything else is set up in .venv.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test check format sweep fuzz bench clean

setup: .venv/ready

.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "gibramdb needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "setting up .venv (a few minutes the first time)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: setup
	@$(BIN)/python -m demo $(ARGS)

# Three files at a time on two processors, since tests wait too, for disks and clocks; more would disturb what is timed.
# Compiled beforehand, since hundreds of them start a Python, and where PYTHONDONTWRITEBYTECODE is set none leaves that behind.
test: setup
	@$(BIN)/python -m compileall -q src tests
	@$(BIN)/python -m pytest -n 3 --dist loadfile

# Format, lint, types, arrows, generated files; then the tests.
check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python tools/generate_async.py --check
	$(BIN)/python tools/generate_wire.py --check
	@$(MAKE) --no-print-directory test

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The long sweeps; their last figures stand in docs/durability.md and docs/security.md.
sweep: setup
	$(BIN)/python -m pytest -m sweep -o timeout=3600 -rA

# Coverage-guided fuzzing of the wire, of a connection, of heavy frames and of the configuration; SECONDS_EACH for each.
SECONDS_EACH ?= 300
fuzz: setup
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[fuzz]'
	$(BIN)/python tools/fuzz.py wire --seconds $(SECONDS_EACH)
	$(BIN)/python tools/fuzz.py connection --seconds $(SECONDS_EACH)
	$(BIN)/python tools/fuzz.py heavy --seconds $(SECONDS_EACH)
	$(BIN)/python tools/fuzz.py config --seconds $(SECONDS_EACH)

bench: setup
	$(BIN)/python bench/durable_adds.py

clean:
	rm -rf .venv build demo-data .pytest_cache .mypy_cache .ruff_cache .hypothesis
