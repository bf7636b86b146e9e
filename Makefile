# Each goal does its own set-up in .venv and installs again only what changed.
#
#   make test | bench | build | wheel | wheel-check | sdist | lint | docs | gpu | coverage | clean | help
#   TORCH=2.11.0             another torch (the environment is switched to it)
#   PYTHON=python3.12        the interpreter that .venv is made with
#   PYTEST_ARGS, BENCH_ARGS  arguments for pytest and for the benchmark (BENCH_ARGS=--help lists them); files of tests run
#                            two at a time, PYTEST_ARGS=-n0 runs them one after the other
#   GPU_ARGS                 for the GPU run, check or measure (GPU_ARGS=--help), on PYTHON, its torch and nvcc, without network
#   WHEEL_TORCHES, WHEEL_PYTHONS   what wheel-check installs the wheel with, in a fresh environment for every pair
#   CROSSD_CUDA, TORCH_CUDA_ARCH_LIST, CUDA_HOME, CXX, MAX_JOBS   see setup.py

PYTHON ?= python3
TORCH ?= 2.13.0
PYTEST_ARGS ?= -n 2 --dist loadfile
# Networks that the tests convert, trainers (MONAI's needs ignite), and CuTe's headers, which know the layouts of tensor
# cores. Without their dependencies: those that the tests need are in the "test" extra, and torchvision names the one torch
# that it is built for, and would replace the chosen one. Where something does not fit, its tests skip.
ZOO := torchvision==0.28.0 timm==1.0.31 monai==1.6.1 pytorch-ignite==0.5.5 dynamic-network-architectures==0.4.4 \
       segmentation-models-pytorch==0.6.0 lightning==2.6.6 lightning-utilities==0.15.3 torchmetrics==1.9.0 \
       nvidia-cutlass==4.2.0.0
WHEEL_TORCHES ?= 2.11.0 2.13.0 newest
WHEEL_PYTHONS ?= $(PYTHON)
VENV := .venv
STAMPS := $(VENV)/.crossd_ops
SOURCES := pyproject.toml setup.py build_backend.py $(shell find csrc -type f)

.PHONY: help build test bench wheel wheel-check sdist lint docs gpu coverage clean FORCE
.DELETE_ON_ERROR:

help:
	@sed -n '/^#/!q;s/^# \{0,1\}//p' Makefile

build: $(STAMPS)/package

test: $(STAMPS)/test $(STAMPS)/zoo $(STAMPS)/bench  # the benchmarks are tested too
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest tests $(PYTEST_ARGS)

bench: $(STAMPS)/bench
	$(VENV)/bin/python -m benchmarks $(BENCH_ARGS)

# One wheel for every Python and every torch from 2.11: CPU kernels, and CUDA kernels where nvcc is. See setup.py.
wheel: $(STAMPS)/torch
	rm -f dist/*.whl
	CROSSD_BINDINGS=0 $(VENV)/bin/python -m pip wheel --no-build-isolation --no-deps --wheel-dir dist .
	$(VENV)/bin/python tests/wheel_check.py dist/*.whl

wheel-check: wheel
	$(VENV)/bin/python tests/wheel_check.py dist/*.whl $(WHEEL_TORCHES:%=--torch %) $(WHEEL_PYTHONS:%=--python %)

sdist: $(STAMPS)/torch
	rm -f dist/*.tar.gz
	$(VENV)/bin/python -c 'import build_backend; build_backend.build_sdist("dist")'

lint: $(STAMPS)/dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' | xargs $(VENV)/bin/clang-format --dry-run --Werror

# The variable: without it pdoc warns of a secret where a default value is the path of this folder.
docs: $(STAMPS)/docs
	PDOC_DISPLAY_ENV_VARS=1 $(VENV)/bin/python -m pdoc --docformat google --output-directory build/docs crossd_ops crossd_ops.conversion crossd_ops.planes

# On the interpreter as it is: a machine with a GPU may have no network to make an environment with.
gpu:
	PYTHON=$(PYTHON) benchmarks/gpu.sh $(GPU_ARGS)

coverage: $(STAMPS)/test $(STAMPS)/zoo $(STAMPS)/bench $(STAMPS)/coverage
	OMP_NUM_THREADS=1 $(VENV)/bin/python tests/coverage_report.py

clean:
	rm -rf build dist *.egg-info crossd_ops/lib crossd_ops/*.so $(STAMPS)/package
	rm -rf .pytest_cache .hypothesis .mypy_cache .ruff_cache

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "crossd_ops: expected Python 3.10 or newer, got $$($(PYTHON) --version 2>&1 | head -n 1); set PYTHON=..." >&2; exit 1; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
	mkdir -p $(STAMPS) && touch $@

# What was asked for, written only when it changes: asking for something else is what makes the goals below out of date.
$(STAMPS)/torch-version: FORCE | $(STAMPS)/venv
	@echo '$(TORCH)' | cmp -s - $@ || echo '$(TORCH)' > $@

$(STAMPS)/build-options: FORCE | $(STAMPS)/venv
	@echo '$(CROSSD_CUDA) $(TORCH_CUDA_ARCH_LIST) $(CUDA_HOME) $(CXX)' | cmp -s - $@ || \
	  echo '$(CROSSD_CUDA) $(TORCH_CUDA_ARCH_LIST) $(CUDA_HOME) $(CXX)' > $@

# The build tools are those of pyproject.toml, installed into .venv: a build after a change then needs no network.
$(STAMPS)/torch: $(STAMPS)/torch-version
	$(VENV)/bin/python -m pip install 'torch==$(TORCH)' 'setuptools>=77' ninja 'pybind11>=2.12'
	touch $@

$(STAMPS)/package: $(STAMPS)/torch $(STAMPS)/build-options $(SOURCES)
	$(VENV)/bin/python -m pip install --no-build-isolation --no-deps --editable .
	touch $@

$(STAMPS)/zoo: Makefile | $(STAMPS)/torch
	$(VENV)/bin/python -m pip install --no-deps $(ZOO)
	touch $@

# One for each set of optional dependencies in pyproject.toml.
$(STAMPS)/test $(STAMPS)/bench $(STAMPS)/dev $(STAMPS)/docs $(STAMPS)/coverage: $(STAMPS)/%: pyproject.toml $(STAMPS)/torch | $(STAMPS)/package
	$(VENV)/bin/python -m pip install --no-build-isolation --editable '.[$*]'
	touch $@
