# The commands of a checkout. `make demo` and `make test` set up by themselves.
#   make setup DEBIAN_MIRROR=URL             machines that are not Debian 12 or 13
#   make setup MICROPYTHON_DIR=/path         or: sources from a MicroPython checkout
#   make setup PYTHON=/path/to/python3.12    another Python (3.11 or newer)

PYTHON ?= python3
# The judges that set-up extracts (mosquitto, …) come before the machine's own.
export PATH := $(CURDIR)/.build/bin:$(PATH)

SET_UP = $(PYTHON) -m tools.setup
BENCHES = size mqtt tls trust emulator faults
PYTEST = .venv/bin/pytest -n 4 --dist worksteal host_tests

.PHONY: help setup board demo test test-long check bench emulator clean

help:
	@echo "make setup      interpreters and Python packages (done by the others when needed)"
	@echo "make demo       the main job: a device survives a root migration"
	@echo "make test       all checks and tests, short form"
	@echo "make test-long  the same with full counts; writes host_tests/reports/"
	@echo "make board      also the emulated board (1.4 GB of Debian packages); make test uses it"
	@echo "make check      format, lint, types, sizes, import directions"
	@echo "make bench      figures: heap, instructions, bytes on the wire"
	@echo "make emulator   a local IoT Hub and DPS to connect to"
	@echo "make clean      remove everything that was made"

setup:
	@$(SET_UP)

board:
	@$(SET_UP) --board

demo:
	@$(SET_UP) --quiet
	@.venv/bin/taproot drill

test:
	@$(SET_UP) --quiet
	@.venv/bin/python -m taproot.checks
	@$(PYTEST)

test-long:
	@$(SET_UP) --quiet --extra
	@.venv/bin/python -m taproot.checks
	@$(PYTEST) --long --summary host_tests/reports/long-run.md

check:
	@$(SET_UP) --quiet
	@.venv/bin/python -m taproot.checks

bench:
	@$(SET_UP) --quiet
	@for kind in $(BENCHES); do .venv/bin/taproot bench $$kind || [ $$? = 1 ] || exit 2; done  # 1: a goal is missed

emulator:
	@$(SET_UP) --quiet
	@.venv/bin/taproot emulator

clean:
	rm -rf .build .venv *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find firmware host_tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
