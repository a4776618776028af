# weft: every target sets up what it needs. `make demo` and `make test` are the two to know.
CMAKE := .venv/bin/cmake
CTEST := .venv/bin/ctest --test-dir build/release --output-on-failure --no-label-summary --no-tests=error
JOBS ?= $(shell nproc)
QUESTION ?= What is gravity?
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# A first build is shorter with precompiled headers, if less of it is cached.
export WEFT_PCH ?= ON
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c

.PHONY: all demo build test test-long lint format clean setup setup-test setup-dev build-all
all: build

# From a bare machine to an answer of a real model, computed by two ranks.
demo: build
	@build/release/weft fetch smollm2-135m >/dev/null
	@build/release/weft generate --model smollm2-135m --tp 2 "$(QUESTION)"

build: setup
	@[ -f build/release/CMakeCache.txt ] || $(CMAKE) --preset release -DWEFT_TESTS=OFF >/dev/null
	@$(CMAKE) --build build/release -j $(JOBS) --target weft

# Every test that needs no GPU. The full counts take hours: make test-long.
test: build-all
	@$(CTEST) -j $(JOBS)

test-long: build-all
	@$(CMAKE) --preset release -DWEFT_TEST_TIMEOUT=14400 >/dev/null
	@{ git describe --always --dirty; lscpu | grep 'Model name'; \
	   WEFT_TEST_LONG=1 $(CTEST) -j $(JOBS) && scripts/fuzz 300; } 2>&1 | sed 's#$(CURDIR)/##g' | tee docs/test-long.txt

build-all: setup-test
	@$(CMAKE) --preset release -DWEFT_TESTS=ON -DWEFT_TEST_TIMEOUT=300 >/dev/null
	@$(CMAKE) --build build/release -j $(JOBS)
	@build/release/weft fetch smollm2-135m >/dev/null

# All files, or those changed since a revision: make lint SINCE=main
lint: setup-dev
	@scripts/lint $(SINCE)
format: setup-dev
	@scripts/lint --fix

setup:
	@scripts/setup run
setup-test:
	@scripts/setup test
setup-dev:
	@scripts/setup dev

# GPU: compile everything (no GPU needed), pack it for any Linux host with a driver, run its tests here.
.PHONY: gpu gpu-bundle gpu-bundle-asan gpu-bundle-tsan gpu-test
gpu:
	@scripts/setup cuda
	@CUDACXX=$$(scripts/cuda-toolkit) $(CMAKE) --preset release -DWEFT_TESTS=ON -DWEFT_CUDA=ON >/dev/null
	@$(CMAKE) --build build/release -j $(JOBS) --target weft test_gpu test_all_to_all bench_all_to_all examples python
gpu-bundle: gpu
	@scripts/gpu-bundle build/release build/gpu-bundle
# The GPU tests with the address or thread sanitizer on the host's side: make gpu-bundle-asan, make gpu-bundle-tsan.
gpu-bundle-asan gpu-bundle-tsan: gpu-bundle-%:
	@scripts/setup cuda
	@CUDACXX=$$(scripts/cuda-toolkit) $(CMAKE) --preset gpu-$* >/dev/null
	@$(CMAKE) --build build/gpu-$* -j $(JOBS) --target test_gpu
	@scripts/gpu-bundle build/gpu-$* build/gpu-bundle-$* test_gpu
gpu-test: gpu-bundle
	@build/gpu-bundle/run-tests.sh

# The Python package as a wheel that stands alone, for the Python of .venv: build/wheel/weft-*.whl. For GPUs too, where
# nvcc is: make wheel CUDA=ON
.PHONY: wheel
CUDA ?= OFF
wheel:
	@scripts/setup wheel
	@rm -rf build/wheel
	@.venv/bin/python -m pip wheel -q --no-deps --no-build-isolation --disable-pip-version-check \
	  -C cmake.define.WEFT_CUDA=$(CUDA) -w build/wheel/plain .
	@.venv/bin/python -m auditwheel repair -w build/wheel build/wheel/plain/weft-*.whl
	@ls build/wheel/weft-*.whl

clean:
	rm -rf build
