PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: demo test clean

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: .venv/.installed ## draw a gallery and two runs, score them, compare them, look at the neighbours
	rm -rf demo
	$(BIN)/finer-rank demo --out demo
	$(BIN)/finer-rank evaluate --gallery demo/gallery --run demo/runs --embedder classical: --out demo/records
	$(BIN)/finer-rank compare demo/records
	$(BIN)/finer-rank neighbours demo/records/look-alike--classical_* --worst 4 --out demo/strips.png
	@echo "Look at demo/strips.png. The records are in demo/records."

test: .venv/.installed ## what has to pass before a change lands
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

clean:
	rm -rf .venv demo
