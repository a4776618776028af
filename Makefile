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

clean:
	rm -rf build
