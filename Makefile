# make setup    .venv with the package and its tools; system packages by apt where something is missing
# make test     the tests (WORKERS=2, PYTEST_ARGS="-k ufs")
# make lint     ruff, mypy --strict, mandoc
# make demo     a guest from a disk image to its first words
# make bench    figures, side by side with bare Python and a plain copy
# make fuzz     coverage-guided fuzzing of every parser (SECONDS=60 a target; RECORD=--record counts it in docs/fuzzing.md)

VENV_PYTHON = .venv/bin/python
STAMP = .venv/.setup-done
WORKERS = auto
PYTEST_ARGS =
SECONDS = 60
RECORD =

.PHONY: setup test lint format demo bench fuzz clean

setup: $(STAMP)

$(STAMP): pyproject.toml tools/setup.sh tools/find-python.sh tools/apt-packages.sh
	sh tools/apt-packages.sh
	sh tools/setup.sh
	@touch $@

test: setup
	$(VENV_PYTHON) -m pytest -n $(WORKERS) $(PYTEST_ARGS)

lint: setup
	$(VENV_PYTHON) -m ruff check src tests tools
	$(VENV_PYTHON) -m ruff format --check src tests tools
	$(VENV_PYTHON) -m mypy
	@if command -v mandoc >/dev/null; then \
		echo mandoc -T lint -W warning man/*.8; mandoc -T lint -W warning man/*.8; \
	else \
		echo "mandoc is not installed: manual pages not checked"; \
	fi

format: setup
	$(VENV_PYTHON) -m ruff check --fix src tests tools
	$(VENV_PYTHON) -m ruff format src tests tools

demo: setup
	$(VENV_PYTHON) tools/demo.py

bench: setup
	$(VENV_PYTHON) -m compileall -q src
	$(VENV_PYTHON) tools/bench.py

fuzz: setup
	$(VENV_PYTHON) -c "import atheris" 2>/dev/null || $(VENV_PYTHON) -m pip install -q atheris || true
	$(VENV_PYTHON) tools/fuzz.py --seconds $(SECONDS) $(RECORD)

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find src tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
