## make demo       set up, run the quickstart from simulated particles to a filtered star file, say what was found
## make test       set up, run every test           (FLAGS="slow cuda" adds the long ones and those for a GPU; WORKERS=2 files at a time)
## make lab        JupyterLab on the tutorials
## make export     notebooks -> drgnbook/*.py, README.md
## make notebooks  run and clean in place           (NB=nbs/api/00_fourier.ipynb for one; else all)
## make bench      our own figures of BENCHMARKS.md, ten minutes (OWN="tables evidence" for some; needs ../shared/data)
## make bench-peer  beside cryodrgn, in an environment of its own (PEER=.peer): steps, maps, backprojection; an hour and a half
## make bench-poses  poses from nothing and improved, several states, the search beside cryodrgn's; two hours
## make bench-proof  every score against the truth, beside cryodrgn (SETS=linear,circle N=1000 EPOCHS=5; in full: SETS=all N=50000 EPOCHS=20)
## make clean      remove what was made, but .venv

PY   ?= python3
VENV ?= .venv
PEER ?= .peer
# Pinned so that everyone who works on drgnbook gets the same numbers; the package itself asks for torch>=2.4.
# Another build: make test TORCH='torch --index-url https://download.pytorch.org/whl/cpu'
TORCH ?= torch==2.13.0

BIN   := $(VENV)/bin
READY := $(VENV)/.ready
WORKERS ?= 2
OWN    ?= imports tables mixture landscape evidence occupancy empiar10076
SETS   ?= linear,circle
N      ?= 1000
EPOCHS ?= 5
NB    ?= $(wildcard nbs/api/*.ipynb nbs/tutorials/*.ipynb nbs/explanations/*.ipynb)

.PHONY: help demo test lab export notebooks bench peer bench-peer bench-poses bench-proof clean
help:
	@sed -n 's/^## //p' Makefile

$(READY): settings.ini pyproject.toml setup.py
	@$(PY) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	  echo "drgnbook needs Python 3.10 or newer and its venv module, and '$(PY)' has not both."; \
	  echo "Debian, Ubuntu: apt-get install python3 python3-venv     Another Python: make PY=/path/to/python3"; exit 1; }
	@echo "Installing into $(VENV): a few minutes the first time"
	$(PY) -m venv $(VENV)
	$(BIN)/python -m pip install -q $(TORCH)
	$(BIN)/python -m pip install -q -e '.[dev]'
	@touch $@

demo: $(READY)
	$(BIN)/python tools/demo.py nbs/tutorials/00_quickstart.ipynb demo

test: $(READY)
	sh tools/browser.sh $(BIN)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --flags "$(FLAGS)"

lab: $(READY)  # JupyterLab refuses root, and root is who you are in a container
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) --ServerApp.root_dir=nbs --LabApp.default_url=/lab/tree/tutorials

export: $(READY)
	$(BIN)/nbdev_export
	$(BIN)/python tools/readme.py

notebooks: $(READY)
	for nb in $(NB); do \
	  $(BIN)/jupyter nbconvert --to notebook --execute --inplace $$nb && $(BIN)/nbdev_clean --fname $$nb && $(BIN)/python tools/still.py $$nb || exit 1; done

bench: $(READY)
	for b in $(OWN); do $(BIN)/python benchmarks/$$b.py || exit 1; done

peer:
	sh benchmarks/peer_env.sh $(PEER) $(PY) '$(TORCH)'

bench-peer: $(READY) peer
	$(BIN)/python benchmarks/peer.py all --peer $(PEER)/bin/python
	$(BIN)/python benchmarks/backproject.py --whole 100000 --peer $(PEER)/bin/python

bench-poses: $(READY) peer
	for what in poses refine het speed beside; do $(BIN)/python benchmarks/search.py $$what --threads 1 --peer $(PEER)/bin/python || exit 1; done

bench-proof: $(READY) peer
	$(BIN)/python benchmarks/proof.py $(SETS) --n $(N) --epochs $(EPOCHS) --peer $(PEER)/bin/python

clean:
	rm -rf demo build dist _docs _proc *.egg-info .pytest_cache
	find . -path ./$(VENV) -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -print | xargs rm -rf
