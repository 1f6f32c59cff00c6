PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# Modules are compiled when they are first imported, and kept: pip would compile all, of which most are never used.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint types pytest critter-reid clean

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -e '.[dev]'
	touch $@

demo: .venv/.installed ## draw a gallery and five models' images, score them, compare them, look at the neighbours, build the board's site
	rm -rf demo
	$(BIN)/finer-rank demo --out demo
	$(BIN)/finer-rank evaluate --gallery demo/gallery --run demo/runs --embedder critter-reid --embedder classical --out demo/records
	$(BIN)/finer-rank compare demo/records/*--critter-reid--*
	$(BIN)/finer-rank compare demo/records --by embedder
	$(BIN)/finer-rank neighbours demo/records/look-alike--critter-reid* --worst 4 --out demo/strips.png
	$(BIN)/finer-rank calibrate --gallery demo/gallery --images 1 --out demo/calibration --plot demo/calibration.png
	$(BIN)/finer-rank leaderboard build leaderboard/records --out demo/site
	@echo "Open demo/site/index.html in a browser. Look at demo/strips.png and demo/calibration.png. The records are in demo/records."

test: .venv/.installed ## what has to pass before a change lands
	$(MAKE) --jobs 2 --output-sync=none lint types pytest

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.installed
	$(BIN)/mypy

# All tests are collected once, before processes do that side by side: each would compile the same libraries.
.venv/.compiled: .venv/.installed
	$(BIN)/python -m pytest --collect-only --quiet >/dev/null || true
	touch $@

pytest: .venv/.compiled
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile \
		--no-loadscope-reorder tests/test_readme.py tests

critter-reid: .venv/.installed ## train the encoder that comes with the package again, into ./critter-reid: about half an hour on two cores
	rm -rf critter-training critter-reid .critter-reid.training
	$(BIN)/finer-rank gallery build critters --seed 101 --species 48 --identities 16 --photos 24 --references 0 --size 128 \
		--out critter-training
	$(BIN)/finer-rank embedder train --gallery critter-training --backbone timm:test_resnet --from-scratch --loss softmax \
		--size 96 --epochs 28 --batch-size 96 --images-per-identity 1 --learning-rate 0.003 --held-out 0.125 --flip --half \
		--out critter-reid

clean:
	rm -rf .venv demo critter-training critter-reid
