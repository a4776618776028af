# weft: every target sets up what it needs. `make demo` and `make test` are the two to know.
CMAKE := .venv/bin/cmake
JOBS ?= $(shell nproc)
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: all build setup setup-test setup-dev configure
all: build

setup:
	@scripts/setup run
setup-test:
	@scripts/setup test
setup-dev:
	@scripts/setup dev

build: setup
	@$(CMAKE) --preset release -DWEFT_TESTS=OFF >/dev/null
	@$(CMAKE) --build build/release -j $(JOBS) --target weft

# GPU: compile everything (no GPU needed), pack it for any Linux host with a driver, run its tests here.
.PHONY: gpu gpu-bundle gpu-test
gpu:
	@scripts/setup cuda
	@CUDACXX=$$(scripts/cuda-toolkit) $(CMAKE) --preset gpu >/dev/null
	@$(CMAKE) --build build/gpu -j $(JOBS) --target weft test_gpu
gpu-bundle: gpu
	@scripts/gpu-bundle build/gpu build/gpu-bundle
gpu-test: gpu-bundle
	@build/gpu-bundle/run-tests.sh

clean:
	rm -rf build
