PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := @echo "installing gdui into $(VENV): some minutes where PyTorch and others must be downloaded first"; \
	$(BIN)/pip install --quiet -e
SOURCES := $(shell find csrc -name '*.cpp' -o -name '*.hpp' -o -name '*.cuh') CMakeLists.txt pyproject.toml

.PHONY: demo test soak bench lint docs clean

demo: $(VENV)/.user
	$(BIN)/gdui demo

test: $(VENV)/.dev
	$(BIN)/pytest

soak: $(VENV)/.dev
	$(BIN)/pip install --quiet atheris || echo "atheris does not install here: what it would lead is skipped"
	GDUI_SOAK=1 $(BIN)/pytest tests/test_faults.py tests/test_cli_interrupted.py tests/test_fuzz.py tests/test_select.py

bench: $(VENV)/.bench
	$(BIN)/python benchmarks/run.py
	$(BIN)/python benchmarks/report.py

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(shell find csrc -name '*.cpp' -o -name '*.hpp' -o -name '*.cuh')

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf build $(VENV)

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

$(VENV)/.user: $(BIN)/pip $(SOURCES)
	$(INSTALL) .
	touch $@

$(VENV)/.dev: $(BIN)/pip $(SOURCES)
	$(INSTALL) '.[dev]'
	touch $@ $(VENV)/.user

$(VENV)/.docs: $(BIN)/pip $(SOURCES)
	$(INSTALL) '.[dev,docs]'
	touch $@ $(VENV)/.dev $(VENV)/.user

$(VENV)/.bench: $(BIN)/pip $(SOURCES)
	$(INSTALL) '.[dev,bench]'
	touch $@ $(VENV)/.dev $(VENV)/.user
