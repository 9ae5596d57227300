# Everything a developer or a first user runs. `make` alone lists the targets.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
LIBRARY := mtp/kernels/libmtp.$(if $(filter Darwin,$(shell uname -s)),dylib,so)
KERNEL_SOURCES := $(wildcard mtp/kernels/src/*)

.PHONY: help setup kernel demo test lint clean

help:
	@echo "make demo    install into .venv, train silicon, print test errors and the report's path"
	@echo "make test    install into .venv and run the tests"
	@echo "make lint    check the code's style"
	@echo "make kernel  compile the C++ kernel again after a change"
	@echo "make clean   remove what was built (not .venv, not runs/)"

setup: $(STAMP)

$(STAMP): pyproject.toml setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[test,test-triton]'
	touch $@

kernel: $(if $(KERNEL_SOURCES),$(LIBRARY))

$(LIBRARY): $(KERNEL_SOURCES) setup.py | $(STAMP)
	$(BIN)/python setup.py -q build_ext --inplace

demo: setup kernel
	rm -rf runs/demo
	$(BIN)/mtp-train configs/demo/control.json --output runs/demo

test: setup kernel
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: setup
	$(BIN)/ruff check .

clean:
	rm -rf build dist *.egg-info $(LIBRARY)
