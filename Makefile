# make help lists the targets.

PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
VENV := .venv
RUN := $(VENV)/bin/python
COPIES := ImageNet-LT/cdb_loss.py EGTEA/cdb_loss.py
DEMO := runs/demo
RUNS := CIFAR-LT/reproduce.py --again --seeds 5 --runs $(DEMO) --only dataset=digits,imbalance=50,precision=fp32,threads=1

.PHONY: help demo demo-CE demo-CDB-CE test types faults gpu copies

help:   ## list the targets
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 20

demo: $(VENV)/ready   ## train CE and CDB-CE with five seeds each on long-tailed digits and compare them (2 to 10 minutes on 2 cores; no download of data)
	rm -rf $(DEMO) && mkdir -p $(DEMO)
	@echo "Five trainings with CE, shown here; beside them, on a second core, five with CDB-CE, which write to $(DEMO)/CDB-CE.txt"
	@$(MAKE) --no-print-directory --jobs 2 demo-CE demo-CDB-CE
	$(RUN) longtail/compare.py $(DEMO)/*_CDB-CE_smoothed_* --against $(DEMO)/*_CE_fp32_* --out $(DEMO)

demo-CE:
	@$(RUN) $(RUNS),loss_type=CE

demo-CDB-CE:
	@$(RUN) $(RUNS),loss_type=CDB-CE,difficulty=smoothed > $(DEMO)/CDB-CE.txt 2>&1 || { tail -n 3 $(DEMO)/CDB-CE.txt >&2; exit 1; }

test: $(VENV)/ready   ## check style and types (ruff, mypy) and run the tests (pytest), 3 to 5 minutes on 2 cores
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	@$(MAKE) --no-print-directory types
	$(RUN) -m pytest -n auto --dist worksteal

# A call for each folder: three files are called cdb_loss.py. In the scripts mypy leaves out what follows from an attribute
# of nn.Module, which PyTorch's annotations take for Tensor | Module.
UNTYPED := $(addprefix --disable-error-code=,arg-type assignment attr-defined call-arg call-overload func-returns-value index operator override \
	type-var union-attr var-annotated)
types:   ## check the types (mypy): strictly in longtail/ and the loss, the scripts less so
	$(RUN) -m mypy --strict longtail CIFAR-LT/cdb_loss.py
	@for folder in CIFAR-LT ImageNet-LT EGTEA; do \
		MYPYPATH=.:$$folder:$$folder/data $(RUN) -m mypy $(UNTYPED) $$folder || exit 1; done

faults: $(VENV)/ready   ## kill, stop and starve runs, and see that nothing is lost (about 20 minutes)
	$(RUN) tests/faults/run.py

# A Python named on the command line is used as it is: a machine with a GPU has its own PyTorch, and may have no network.
ifeq ($(origin PYTHON),command line)
gpu: RUN := $(PYTHON)
else
gpu: $(VENV)/ready
endif
gpu:   ## check numbers, ways of running and speed on a GPU; PART=numbers, ways, speed or run does one of them (8 minutes each)
	$(RUN) tests/gpu/run.py $(if $(PART),--part $(PART)) $(if $(DATA),--data_root $(DATA))

copies:   ## copy CIFAR-LT's cdb_loss.py to the other two experiments
	@for copy in $(COPIES); do \
		cmp -s CIFAR-LT/cdb_loss.py $$copy || ! [ $$copy -nt CIFAR-LT/cdb_loss.py ] || \
		{ echo "$$copy is newer than CIFAR-LT/cdb_loss.py: move its edit there first, nothing was copied" >&2; exit 1; }; done
	@for copy in $(COPIES); do cmp -s CIFAR-LT/cdb_loss.py $$copy || cp CIFAR-LT/cdb_loss.py $$copy; done

$(VENV)/ready: requirements.txt requirements-dev.txt $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed; " + sys.executable + " is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.11 ...")'
	@echo "Installing PyTorch and the other requirements into $(VENV): about 6 GB, 2 to 5 minutes."
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --requirement requirements-dev.txt --constraint $(CONSTRAINTS)
	@touch $@
