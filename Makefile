# The only front door. `make book` and `make test` set up what they need in .venv.
SHELL := /bin/bash
PYTHON ?= python3
PROFILE ?= digits
# A worker a core; one alone where they would share a GPU.
CORES ?= $(shell if command -v nvidia-smi >/dev/null; then echo 1; else env -u OMP_NUM_THREADS nproc 2>/dev/null || sysctl -n hw.ncpu; fi)
VENV := .venv
READY := $(VENV)/.ready
PEERS := benchmarks/.venv
# A killed run leaves nothing locked or half-written, so the next one simply goes on.
SNAKEMAKE := snakemake --quiet=rules --cores $(CORES) --nolock --rerun-incomplete --keep-going
PYTEST := python -m pytest -n auto --maxprocesses 4 --dist loadfile $(if $(SINCE),--since $(SINCE))
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# One thread a worker: two of them beat one worker with two threads on small networks.
export OMP_NUM_THREADS ?= 1
# glibc keeps freed memory for the next batch: else up to a third of an attack is page faults.
export MALLOC_MMAP_MAX_ ?= 0
export MALLOC_TRIM_THRESHOLD_ ?= 4000000000

.PHONY: book test check plan sweep status serve slides bench lint clean

book: $(READY)  ## execute the chapters, build the website; run the digits study if the engine changed
	$(SNAKEMAKE) book

test: $(READY)  ## the engine's tests; SINCE=<commit>: those that what has changed since can reach
	$(PYTEST) --ignore tests/check

check: $(READY)  ## browser, killed sweep and other long tests; needs the website that `book` built
	$(PYTEST) tests/check

plan: $(READY)  ## how many points, hours and megabytes PROFILE takes
	python -m lib.study plan "$(PROFILE)" --workers $(CORES)

sweep: $(READY)  ## run the study of PROFILE; started again it does what is missing
	$(SNAKEMAKE) sweep --config profile="$(PROFILE)"

status: $(READY)  ## which points of PROFILE are recorded
	python -m lib.study status "$(PROFILE)"

serve: book  ## show the website
	python -m lib.book serve

slides: book  ## the chapters as slides, which lie in the website beside their pages
	@ls _build/html/notebooks/*.slides.html

lint: $(READY)  ## style, and all that is generated: the .ipynb pairs, the README's results
	ruff format .
	ruff check --fix .
	lint-imports
	python -m lib.book pair notebooks/*.py
	python -m lib.book.readme
	python -m pytest tests/test_committed.py

# The peer of influence comes from GitHub, which not every network reaches: it is then left out.
bench: $(READY) $(PEERS)/.ready  ## an epoch and a point of PROFILE, by stage; attacks, influence against peers
	python benchmarks/epoch.py $(PROFILE)
	python benchmarks/point.py $(PROFILE)
	PYTHONPATH=. $(PEERS)/bin/python benchmarks/attacks.py
	-python -c "import torch_influence" 2>/dev/null || GIT_TERMINAL_PROMPT=0 \
		python -m pip install --quiet -r benchmarks/requirements-influence.txt
	python benchmarks/influence.py

clean:  ## remove what can be made again: the website, executed chapters, the digits networks
	rm -rf _build runs/book runs/site runs/digits .snakemake

$(READY): requirements.txt pyproject.toml
	@$(VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(VENV)/bin/python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) \
		and "Python 3.11 to 3.13 is needed: rm -r $(VENV), then make PYTHON=python3.12")'
	$(VENV)/bin/python -m pip install --quiet -r requirements.txt -e .
	touch $@

$(PEERS)/.ready: benchmarks/requirements.txt | $(READY)
	python -m venv --clear $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet -r $<
	touch $@
