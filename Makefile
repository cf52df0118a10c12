# Every target makes the environment it needs. PYTHON is any Python 3.11 or newer.
PYTHON ?= python3
# Elsewhere where several checkouts share one, as .ci/run does.
VENV ?= .venv
BIN := $(VENV)/bin
GPU_VENV := $(VENV)$(if $(shell command -v nvidia-smi),-gpu)
PIP := $(BIN)/python -m pip --disable-pip-version-check -q

.PHONY: help setup viewer fhir-validation demo test test-fast test-large fuzz check serve bench bench-all bench-load bench-peers bench-slides bench-viewer bench-lis bench-gpu models nuclei-folds nuclei-lent fluorescence-lent lock sbom format clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 12

# Without npm's registry everything but the page works.
BUILD_VIEWER = $(MAKE) --no-print-directory viewer || echo "The page is not built: npm's registry is needed once."

setup: $(VENV)/.dev ## the environment for development, in .venv, and the page
	@$(BUILD_VIEWER)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# The page, with the node that requirements/build.txt brings; the only step that needs npm's registry.
VIEWER := service/slidecascade/viewer
viewer: $(VIEWER)/built/index.html ## builds the page of /viewer/

$(VIEWER)/built/index.html: $(wildcard $(VIEWER)/src/*) $(VIEWER)/build.mjs $(VIEWER)/package-lock.json | $(VENV)/.service
	PATH="$(abspath $(BIN)):$$PATH" npm --prefix $(VIEWER) ci --no-audit --no-fund
	PATH="$(abspath $(BIN)):$$PATH" npm --prefix $(VIEWER) run build
	touch $@

# The validator of FHIR Bundles, for tests alone.
FHIR_VALIDATION := tests/fhir_validation
fhir-validation: $(FHIR_VALIDATION)/node_modules/.done ## installs npm's validator of FHIR for the tests

$(FHIR_VALIDATION)/node_modules/.done: $(FHIR_VALIDATION)/package-lock.json | $(VENV)/.service
	PATH="$(abspath $(BIN)):$$PATH" npm --prefix $(FHIR_VALIDATION) ci --no-audit --no-fund
	touch $@

# What it takes to serve: no training framework.
$(VENV)/.service: requirements/service-cpu.txt pyproject.toml | $(VENV)/bin/python
	$(PIP) install -r requirements/build.txt -r requirements/service-cpu.txt
	$(PIP) install --no-deps --no-build-isolation -e .
	touch $@

# The same and the converters, the training framework and the checkers.
$(VENV)/.dev: requirements/dev.txt requirements/torch.txt $(VENV)/.service
	$(PIP) install -r requirements/dev.txt -r requirements/torch.txt
	touch $@

demo: $(VENV)/.service ## analyse a region with a served process; IMAGE=.. MPP=.. or SLIDE=.. REGION=x,y,w,h
	$(BIN)/slidecascade demo --out demo-output \
		$(if $(IMAGE),--image "$(IMAGE)") $(if $(MPP),--mpp $(MPP)) \
		$(if $(SLIDE),--slide "$(SLIDE)") $(if $(REGION),--region=$(REGION)) \
		$(if $(PIPELINE),--pipeline $(PIPELINE))

# A worker for each core; a file's tests stay in one worker, so that what its fixtures start is started once.
TEST_WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile

test: $(VENV)/.dev ## all tests
	$(PYTEST)

test-fast: $(VENV)/.dev ## unit and property tests without full-size networks, training and server processes; for daily work
	$(PYTEST) -m "not slow" tests/test_imports.py tests/unit tests/properties

test-large: $(VENV)/.dev ## the conversion of a network of 200 million weights, alone, with 10 GiB of memory
	SLIDECASCADE_TEST_LARGE=1 $(BIN)/python -m pytest tests/unit/test_convert_torch.py -k unext101

fuzz: $(VENV)/.dev ## bytes made to break what reads them, guided by coverage; SECONDS for each of the targets, by default 600; OUT=folder for fuzz.json
	$(BIN)/python -m benchmarks.stability.fuzz --seconds $(or $(SECONDS),600) $(if $(OUT),--out "$(OUT)")

check: $(VENV)/.dev ## style, types, direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_imports.py

serve: $(VENV)/.service ## the service on port 3000, with the page at /viewer/; SLIDES=folder JOBS=folder
	@$(BUILD_VIEWER)
	$(BIN)/slidecascade serve $(if $(SLIDES),--slides "$(SLIDES)") $(if $(JOBS),--jobs "$(JOBS)")

bench: $(VENV)/.dev ## regions and tilings, ten minutes, to benchmarks/results; DATA=folder with dsb2018 and nucls, for the accuracy
	$(if $(DATA),$(BIN)/python -m benchmarks.accuracy --data "$(DATA)")
	$(BIN)/python -m benchmarks

# Apart from the others: Locust brings a web server of its own and a pytest plugin.
$(VENV)/.bench: requirements/bench.txt $(VENV)/.dev
	$(PIP) install -r requirements/bench.txt
	touch $@

# On a quiet machine and a clean checkout: each figure is written with its commit and networks.
bench-all: $(VENV)/.bench $(GPU_VENV)/.service ## measures everything again in one go, for hours; DATA=folder with nuclei/ and liver/
	$(GPU_VENV)/bin/python -m benchmarks.gpu
	$(BIN)/python -m benchmarks --all $(if $(DATA),--data "$(DATA)")

bench-load: $(VENV)/.bench ## callers of every number and rate, about five minutes, to benchmarks/results; SOAK=minutes more
	$(BIN)/python -m benchmarks.load $(if $(SOAK),--soak-minutes $(SOAK))

# LitServe and Ray Serve get environments of their own, pinned in requirements/peers-*.txt, in the user's cache folder.
bench-peers: $(VENV)/.dev ## the same regions by the service and by its peers, which are tuned first, ten minutes to an hour; QUICK=1 for a look
	$(BIN)/python -m benchmarks.peers $(if $(QUICK),--quick --out runs/peers)

# An environment of its own, where there is a GPU: ONNX Runtime for it cannot be installed beside the other one.
$(VENV)-gpu/.service: requirements/service-gpu.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)-gpu
	$(VENV)-gpu/bin/python -m pip --disable-pip-version-check -q install \
		-r requirements/build.txt -r requirements/service-gpu.txt
	$(VENV)-gpu/bin/python -m pip --disable-pip-version-check -q install --no-deps --no-build-isolation -e .
	touch $@

bench-slides: $(VENV)/.dev ## slides as jobs: networks, memory, queue, a million cells, kill -9, workers, people beside a job; ten minutes; FULL=1 to 1.7 gigapixels, twenty
	$(BIN)/python -m benchmarks.jobs $(if $(FULL),--full)

bench-viewer: $(VENV)/.dev ## the page in Chromium, on a slide of 0.4 Gpx and a million cells, five minutes; MINUTES=10 of panning
	@$(BUILD_VIEWER)
	$(BIN)/python -m benchmarks.viewer $(if $(MINUTES),--minutes $(MINUTES))

bench-lis: $(VENV)/.dev ## the bridge to a LIS: acknowledgements and memory, then 20 kill -9, over 10,000 orders each, eight minutes
	$(BIN)/python -m benchmarks.lis

bench-gpu: $(GPU_VENV)/.service ## a region on an NVIDIA GPU; without one it says so
	$(GPU_VENV)/bin/python -m benchmarks.gpu

nuclei-folds: $(VENV)/.dev ## trains the nuclei network for each source held out (an hour on a large GPU); DATA=folder
	$(BIN)/python -m slidecascade_training.nuclei.cross_validation --data "$(DATA)/dsb2018" --nucls "$(DATA)/nucls" \
		--tissue 40 --seed 0 --out runs/nuclei-folds

# Each command ends after SECONDS with a checkpoint and goes on where the last one ended, also after a kill.
LENT_PYTHON ?= $(BIN)/python
LENT_PATH := $(CURDIR)/service:$(CURDIR)/converters:$(CURDIR)/training
OUT ?= runs

nuclei-lent: ## trains a nuclei network for objects of 8 to 100 px for SECONDS (540), and goes on when repeated; DATA=folder OUT=folder LENT_PYTHON=python with Keras
	PYTHONPATH="$(LENT_PATH):$$PYTHONPATH" $(LENT_PYTHON) -m slidecascade_training.nuclei --data "$(DATA)/dsb2018" \
		--nucls "$(DATA)/nucls" --tissue 40 --seed 0 --scaling objects $(if $(STEPS),--steps $(STEPS)) \
		$(if $(BATCH),--batch $(BATCH)) --seconds $(or $(SECONDS),540) --out "$(OUT)/nuclei-objects"

fluorescence-lent: ## the same for the fluorescence networks, with PyTorch; DATA=folder OUT=folder LENT_PYTHON=python
	PYTHONPATH="$(LENT_PATH):$$PYTHONPATH" $(LENT_PYTHON) -m slidecascade_training.fluorescence --data "$(DATA)/dsb2018" \
		--nuclei models/nuclei-unet/1/model.onnx --steps $(or $(STEPS),4000) --batch $(or $(BATCH),32) \
		--seconds $(or $(SECONDS),540) --out "$(OUT)/fluorescence"

models: $(VENV)/.dev ## retrains the bundled models (hours); DATA=folder with dsb2018 and nucls
	$(BIN)/python -m slidecascade_training.nuclei --data "$(DATA)/dsb2018" --nucls "$(DATA)/nucls" --tissue 40 \
		--seed 0 --out runs/nuclei
	$(BIN)/python -m slidecascade_training.nuclei.package --data "$(DATA)/dsb2018" --run runs/nuclei --models models
	$(BIN)/python -m slidecascade_training.nuclei.int8 --data "$(DATA)/dsb2018" --nucls "$(DATA)/nucls" --models models
	$(BIN)/python -m slidecascade_training.nash --only nash-cell --seed 4 --windows 700 --steps 9000 \
		--out runs/nash --package models
	$(BIN)/python -m slidecascade_training.nash --only nash-hepatocyte --seed 4 --windows 700 --steps 12000 \
		--out runs/nash --package models
	$(BIN)/python -m slidecascade_training.fat --out runs/fat
	$(BIN)/python -m slidecascade_training.fat.package --run runs/fat --models models
	$(BIN)/python -m slidecascade_training.tumour --seed 1 --windows 1000 --steps 1600 --out runs/tumour --package models
	$(BIN)/python -m slidecascade_training.kidney --seed 0 --tiles 1300 --steps 6000 --batch 8 --out runs/kidney
	$(BIN)/python -m slidecascade_training.kidney.package --run runs/kidney --models models
	$(BIN)/python -m slidecascade_training.fluorescence --data "$(DATA)/dsb2018" \
		--nuclei models/nuclei-unet/1/model.onnx --steps 2425 --batch 32 --out runs/fluorescence
	$(BIN)/python -m slidecascade_training.fluorescence.package --data "$(DATA)/dsb2018" --run runs/fluorescence \
		--models models
	$(BIN)/slidecascade train translator --data "$(DATA)/dsb2018" --steps 4000 --out runs/translator \
		--package --name nuclei-translator --models models --licence Apache-2.0

# torch has a file of its own, kept by hand: a universal lock of it lists gigabytes of CUDA.
# What the images install is pinned with hashes.
lock: $(VENV)/.dev ## pins every requirement anew but torch
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --no-header --generate-hashes \
		requirements/build.in -o requirements/build.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --no-header pyproject.toml \
		--extra service --extra cpu --extra triton --extra convert --extra train --extra dev \
		--excludes requirements/torch-excluded.in -o requirements/dev.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --no-header pyproject.toml \
		--generate-hashes --extra service --extra cpu --extra triton --extra dicom -c requirements/dev.txt \
		-o requirements/service-cpu.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --no-header pyproject.toml \
		--generate-hashes --extra service --extra gpu --extra triton --extra dicom -c requirements/dev.txt \
		-o requirements/service-gpu.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --no-header pyproject.toml \
		--extra bench -c requirements/dev.txt -o requirements/bench.txt
	for peer in litserve ray; do $(BIN)/uv pip compile -q --universal --python-version 3.11 --no-header \
		requirements/peers-$$peer.in -c requirements/dev.txt -o requirements/peers-$$peer.txt || exit 1; done

sbom: $(VENV)/.dev ## what a build installs, as CycloneDX documents in dist/
	mkdir -p dist
	for variant in cpu gpu; do \
		$(BIN)/cyclonedx-py requirements --pyproject pyproject.toml requirements/service-$$variant.txt -o dist/sbom-$$variant.json || exit 1; done

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(VENV)-gpu demo-output runs
