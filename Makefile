# `make` lists the commands. Building, running and testing need only Go; lint and generate build their pinned tools
# from tools/*/go.mod on first use (a few minutes each, then cached) and work offline from then on.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Each is one command that runs the version in its go.mod. They live outside the main module because their
# dependencies would decide the versions of ours.
BUF ?= go tool -modfile=tools/buf/go.mod buf
GOLANGCI_LINT ?= go tool -modfile=tools/golangci/go.mod golangci-lint

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

# RACE=1 turns the race detector on, which needs a C compiler. TEST_FLAGS is passed to go test.
RACE ?=
TEST_FLAGS ?= -timeout=10m

# For each fuzz target. A number and not a time: where a machine is slow, go test takes its own deadline for a failure.
FUZZ_EXECS ?= 20000

# How often the long crash test kills a server.
CRASH_KILLS ?= 300

.PHONY: help
help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: build ## Serve on loopback with the simulator behind it; needs no key and no set-up
	bin/chatsvc serve --dev

.PHONY: build
build: ## Build bin/chatsvc, static and reproducible
	CGO_ENABLED=0 go build -trimpath -ldflags "-X main.version=$(VERSION)" -o bin/chatsvc ./cmd/chatsvc

.PHONY: test
test: ## Run every test (RACE=1 for the race detector)
	go test $(if $(RACE),-race) $(TEST_FLAGS) ./...

.PHONY: test-race
test-race: ## Run every test under the race detector
	@$(MAKE) --no-print-directory test RACE=1

.PHONY: fuzz
fuzz: ## Run every fuzz target FUZZ_EXECS times
	@targets=$$({ grep -rEo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' . || true; } | sed -E 's|/[^/]+:func | |' | sort); \
	if [ -z "$$targets" ]; then echo "no fuzz targets"; exit 0; fi; \
	while read -r package target; do \
		go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZ_EXECS)x -fuzzminimizetime 100x "$$package" </dev/null; \
	done <<<"$$targets"

.PHONY: crash
crash: ## Kill servers CRASH_KILLS times under load, and look for what was lost
	go test -run '^TestCrash' -count=1 -timeout=4h -v ./cmd/chatsvc -args -crash.kills=$(CRASH_KILLS)

.PHONY: bench
bench: ## Measure the running program against a bare gRPC forwarder
	go run ./bench

.PHONY: bench-store
bench-store: ## Measure chatsvc on SQLite and PostgreSQL against a store that forgets
	go run ./bench -store

.PHONY: lint
lint: lint-go lint-proto breaking ## Check Go and proto for mistakes, format and breaking changes

.PHONY: lint-go
lint-go:
	$(GOLANGCI_LINT) run

.PHONY: lint-proto
lint-proto:
	$(BUF) lint
	$(BUF) format --diff --exit-code proto

.PHONY: format
format: ## Format Go and proto in place
	$(GOLANGCI_LINT) fmt
	$(BUF) format --write proto

.PHONY: breaking
breaking: ## Compare the contract with the newest release tag
	@tag=$$(git -c versionsort.suffix=- for-each-ref --count=1 --sort=-version:refname --format='%(refname:short)' 'refs/tags/v[0-9]*'); \
	if [ -z "$$tag" ]; then echo "breaking: no release tag yet, nothing to compare with"; exit 0; fi; \
	echo "breaking: comparing with $$tag"; \
	$(BUF) breaking --against "$$(git rev-parse --git-common-dir)#tag=$$tag"

.PHONY: generate
generate: ## Regenerate gen/ from proto/
	$(BUF) generate

.PHONY: check-generate
check-generate: ## Fail when gen/ is not what proto/ generates
	@fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; \
	$(BUF) generate --output "$$fresh"; \
	diff -ru gen "$$fresh/gen" || { echo "gen/ is out of date: run make generate and commit the result" >&2; exit 1; }

.PHONY: tidy-check
tidy-check: ## Fail when a go.mod or go.sum is not tidy
	@for module in . tools/buf tools/golangci tools/grpcurl; do \
		echo "go mod tidy -diff ($$module)"; \
		(cd "$$module" && go mod tidy -diff); \
	done

.PHONY: clean
clean: ## Remove what the other commands built
	rm -rf bin
