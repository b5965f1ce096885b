# make run and make test do everything on a machine with Python >= 3.11 and make; make help lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORES ?= all
STUDY ?= config/config.yaml
DOCKER ?= docker
IMAGE_ARGS ?=
# The study's name in its file, without quotes and comment.
NAME = $$(sed -n "s/^study: *[\"']*\([^\"' \#]*\).*/\1/p" $(STUDY))
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev run bundle leaderboard test test-architectures test-slurm system-slurm lint format architectures docs
.PHONY: image image-docker test-container system-apptainer system-containers clean clean-all

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-19s %s\n", $$1, $$2}'

setup: $(VENV)/.installed  ## create the environment in .venv from requirements.lock
setup-dev: $(VENV)/.installed-dev  ## the same with the tools for tests and lint

run: setup  ## set up and run a study (STUDY=config/config.yaml, CORES=all); print its table
	@echo "running $(STUDY); the first minutes go into drawing data and training, one line per epoch follows"
	snakemake --cores $(CORES) --configfile $(STUDY)
	@name=$(NAME); cat results/$$name/results_table.txt; \
	echo; echo "report: $(CURDIR)/results/$$name/report.html"

# The study's section `bundle`, given by variables of the environment (see config/README.md).
bundle: export ARCHBENCH_BUNDLE__MODELS = ["$(MODEL)"]
bundle: export ARCHBENCH_BUNDLE__DATASETS = $(if $(DATASET),["$(DATASET)"],null)
bundle: export ARCHBENCH_BUNDLE__PRECISION = $(or $(PRECISION),fp32)
bundle: setup  ## what runs without torch: make bundle MODEL=resnet18|ensemble [STUDY=…] [DATASET=…] [PRECISION=int8]
	@[ -n "$(MODEL)" ] || { echo "name a model of the study, or ensemble: make bundle MODEL=…"; exit 1; }
	snakemake --cores $(CORES) --configfile $(STUDY) -- bundle
	@name=$(NAME); ls -d results/$$name/$(or $(DATASET),*)/$(MODEL)/bundle-$(or $(PRECISION),fp32)*

test: setup-dev  ## set up and run the tests
	pytest -n 2 -m "not slow" tests/unit tests/contracts tests/scripts
	pytest -n 2 --dist loadgroup tests/workflow

test-slurm: setup-dev system-slurm  ## run a study on a one-node SLURM of its own (root on Debian; minutes)
	pytest -rs tests/system/test_slurm.py

# slurm-wlm: controller, node daemon and commands; munge: their authentication. The test says why it can't run.
system-slurm:  ## install the Debian packages that test-slurm needs, where that is possible
	@command -v slurmctld >/dev/null && command -v munged >/dev/null || { \
	[ "$$(id -u)" = 0 ] && apt-get update -qq && \
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge; } \
	|| echo "slurm-wlm and munge could not be installed: that takes root and apt-get"

test-architectures: setup-dev  ## the ONNX export of every architecture with parity, and large decoders (minutes)
	pytest -n 2 -m slow tests/contracts tests/unit

lint: setup-dev  ## ruff, types, snakefmt, snakemake --lint, spelling
	ruff check .
	ruff format --check .
	mypy
	snakefmt --check Snakefile workflow
	snakemake --lint
	codespell

format: setup-dev  ## format Python and Snakemake files
	ruff check --fix .
	ruff format .
	snakefmt Snakefile workflow

image:  ## build containers/archbench.sif with Apptainer (IMAGE_ARGS: options of apptainer build)
	@containers/build_image.sh $(IMAGE_ARGS)

image-docker:  ## build the Docker image archbench (DOCKER=docker, podman or buildah; IMAGE_ARGS: options of its build)
	@command -v $(DOCKER) >/dev/null || { echo "$(DOCKER) is missing: name another one, such as DOCKER=podman"; exit 1; }
	$(DOCKER) build $(IMAGE_ARGS) --file containers/Dockerfile --tag archbench \
	--build-arg VERSION=$$(sed -n 's/^version = "\(.*\)"$$/\1/p' pyproject.toml) \
	--build-arg LOCK_SHA256=$$(sha256sum requirements.lock | cut -d ' ' -f 1) \
	--build-arg BUILD_DATE=$$(date --utc +%Y-%m-%dT%H:%M:%SZ) .

test-container: setup-dev  ## build the images and run a study in containers, with the real Apptainer and buildah
	pytest -rs tests/system/test_container.py

system-apptainer:  ## install Apptainer with what it needs (Debian, as root)
	@containers/install_apptainer.sh

# mmdebstrap: draws a Debian base image where no registry can be reached; buildah: builds containers/Dockerfile
system-containers: system-apptainer  ## the same and what test-container needs beside it (Debian, as root)
	apt-get -qq install --yes --no-install-recommends mmdebstrap buildah

leaderboard: setup  ## rank all finished studies (results/leaderboard/runs.html)
	@python scripts/leaderboard.py runs

architectures: setup  ## print the table of architectures
	@python scripts/architectures.py

docs: setup  ## regenerate the reference of settings, the schema and the table of architectures
	python scripts/architectures.py --measure >/dev/null
	python scripts/generate_docs.py

clean:  ## remove caches, logs and Snakemake's notes; results and the environment stay
	rm -rf logs .snakemake .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find archbench scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +

clean-all: clean  ## also remove the environment (results stay)
	rm -rf $(VENV)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1): make PYTHON=python3.12 …"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	echo "no venv module: install the Debian package python3-venv (apt-get install python3-venv)"; exit 1; }

# Packages go in by the lock alone; the code is the checkout, reached by a path file.
$(VENV)/.installed: requirements.lock | $(VENV)/bin/python
	@echo "installing requirements.lock into $(VENV): about 7 GB, some minutes"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	@$(BIN)/python -c 'import pathlib, site; pathlib.Path(site.getsitepackages()[0], "archbench.pth").write_text("$(CURDIR)\n")'
	@touch $@

$(VENV)/.installed-dev: requirements-dev.lock $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements-dev.lock
	@touch $@
