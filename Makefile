# All of the project's commands. `make help` lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.installed
JOBS   ?= 2

.DEFAULT_GOAL := help
RUN    ?= runs/quickstart
# The last two are integers of ONNX, on each architecture.
IMAGES := raspberry-pi-4b raspberry-pi-zero-2w raspberry-pi-zero-2w=linux/arm/v7 generic-x86 smart-camera-imx8mp \
	generic-x86:model.int8.onnx raspberry-pi-4b:model.int8.onnx
DEVICES = $(sort $(filter-out linux/% model.%,$(subst :, ,$(subst =, ,$(IMAGES)))))

.PHONY: help setup demo test test-slow test-device images weekly lint fmt types golden results wheel check clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## create .venv with everything in it

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
		|| { echo "Python 3.11 to 3.13 is needed: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[tflite,sweep,track,dev]"
	touch $@

demo: setup ## run the quickstart: digits to files for three devices, with a report
	$(BIN)/pare run

test: setup ## the whole test suite, less what is marked slow
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

test-slow: setup ## the tests that take minutes
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m slow

test-device: setup ## files on an emulated arm64 board (root, Debian; made once, five minutes)
	PYTHON=$(BIN)/python tests/device/rootfs.sh arm64 build/rootfs-arm64
	$(BIN)/python -m pytest -n 0 -m device tests/device

images: setup ## build and run the devices' images without a registry (root, Debian 12; ten minutes)
	$(BIN)/pare run --out $(RUN) $(addprefix --target ,$(DEVICES))
	PYTHON=$(BIN)/python docker/images.sh $(RUN) $(IMAGES)

weekly: test-slow test-device ## what takes long: once a week

lint: setup ## ruff and strict types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

types: setup ## strict types only
	$(BIN)/mypy

fmt: setup ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

golden: setup ## rewrite the golden files and show what changed
	PARE_UPDATE_GOLDEN=1 $(BIN)/python -m pytest -q -n 0 tests/golden
	git --no-pager diff --stat tests/golden

results: setup ## make the tables under benchmarks/results again
	$(BIN)/pare run
	$(BIN)/python benchmarks/quickstart_methods.py
	$(BIN)/python benchmarks/step_time.py
	$(BIN)/python benchmarks/serving.py runs/quickstart/5-export/model.int8.tflite runs/quickstart/5-export/model.int8.onnx
	$(BIN)/python benchmarks/readme_tables.py

wheel: setup ## build the wheel into dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

check: lint test ## what CI requires

clean: ## remove the virtual environment, runs and caches
	rm -rf $(VENV) runs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
