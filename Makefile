# make demo: see it work.  make test: what CI runs.  make check: its fast part.
# Variables: ARGS (passed on to the command), PYTHON (default: python3.11, then python3), TORCH_INDEX (see README, set-up).

BIN := .venv/bin
export PYTHON TORCH_INDEX
PACKAGES := pyproject.toml constraints.txt scripts/setup.sh

.PHONY: help setup demo test check lint unit integration failures evaluation bench quality security clean

help:
	@echo "make setup   virtual environment in .venv (says what it downloads)"
	@echo "make demo    a real image denoised by two servers that cannot see it; ARGS=\"--sigma 15\""
	@echo "make check   lint, types, layers, tests without sockets: a minute"
	@echo "make test    the same and the integration tests: what CI runs"
	@echo "make bench   beside stock CrypTen and SPU, over three kinds of network: hours, and it goes on where it was stopped; ARGS=\"--sizes 128\""
	@echo "make quality pictures beside BM3D and others, and seconds on shares: quality-report/; IMAGES=DIR (default ../shared/data), ARGS=\"--slices 2\""
	@echo "make security what each party can learn, shown by running it: docs/security-report; ARGS=\"--quick\" for a short form"
	@echo "make clean   remove .venv, caches and results"

setup: .venv/.run

# A stamp is made only when all of its packages are in, so an interrupted set-up is continued by the next.
.venv/.run: $(PACKAGES)
	@scripts/setup.sh server,codecs,anonymize
	@touch $@

.venv/.dev: .venv/.run
	@scripts/setup.sh server,codecs,anonymize,dev
	@touch $@

# BM3D, for the evaluation alone: non-commercial licence (pyproject.toml).
.venv/.evaluation: .venv/.run
	@scripts/setup.sh server,evaluation
	@touch $@

demo: .venv/.run
	@$(BIN)/darkroom demo $(ARGS)

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m proto.regenerate --check

# Side by side, each with its output in one piece.
check: .venv/.dev
	@$(MAKE) --no-print-directory -j2 --output-sync=target lint unit

# What holds no unit test of `make check` is not even read.
LEFT_OUT := $(addprefix --ignore=tests/,integration training security)

# Two processes, a file of tests in one of them: two cores bring it under a minute.
unit: .venv/.dev
	$(BIN)/pytest -q -n 2 --dist loadfile -m "not integration and not slow and not evaluation" $(LEFT_OUT) $(ARGS)

# The live half, two at a time on two cores, the longest first: everything live, the short form of the security evaluation, failures.
test: check
	@$(MAKE) --no-print-directory -j2 integration evaluation failures

integration: .venv/.dev
	$(BIN)/pytest -q -rs -m "(integration or slow) and not failures and not evaluation" $(ARGS)

failures: .venv/.dev
	$(BIN)/pytest -q -rs -m failures tests/integration $(ARGS)

evaluation: .venv/.dev
	$(BIN)/pytest -v -m evaluation tests/security $(ARGS)

# SPU pins its numpy and JAX, so it has an environment of its own; its wheels are for Linux and macOS. Without it: `python -m bench`.
.venv-spu/.made: bench/spu-requirements.txt | .venv/.run
	@echo "bench: making .venv-spu for the peer SPU (1 GB on disk)"
	@$(BIN)/python -m venv --clear .venv-spu
	@.venv-spu/bin/python -m pip --disable-pip-version-check install --quiet -r bench/spu-requirements.txt
	@touch $@

bench: .venv/.run .venv-spu/.made
	$(BIN)/python -m bench $(ARGS)

quality: .venv/.evaluation
	$(BIN)/python -m bench.quality $(if $(IMAGES),--images $(IMAGES)) $(ARGS)

security: .venv/.evaluation
	$(BIN)/python -m security $(ARGS)

clean:
	rm -rf .venv .venv-spu .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist darkroom-demo bench-results \
		quality-report security-report
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
