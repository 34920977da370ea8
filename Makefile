# make run     builds poolinit and runs a pool of example workers
# make test    installs what the tests need (as root, on Debian), then runs all of them
# make build   bin/poolinit, static and stripped
# make image   the container image poolinit:latest
# make release dist/: binaries, packages, checksums (VERSION=v1.2.3, else git describe)
# make chaos   half an hour of random trouble (SEED=n replays a round; CHAOS=10m)
# make fuzz    each fuzz target for half a minute (FUZZ=3s)
# make e2e-k8s rollouts under load and more, in a real Kubernetes (K8S_KIT=directory)
# make bench   measures it beside its peers
# make clean

GO      ?= go
VERSION ?= $(shell git describe --tags --match 'v[0-9]*' --dirty 2>/dev/null || echo devel)
BUILD   := GO=$(GO) VERSION=$(VERSION) tools/build.sh

# What the tests run beside poolinit, and what tells that it is there.
PEERS    := php-cli php-redis redis-server tini dumb-init catatonit strace procps bash python3 gcc libc6-dev jq openssl \
	netcat-openbsd nodejs qemu-user prometheus chromium man-db mandoc zsh fish rpm qemu-system-x86 busybox-static
PROGRAMS := php redis-server redis-cli tini dumb-init catatonit strace ps bash python3 node gcc jq openssl nc qemu-aarch64 prometheus promtool chromium man mandoc zsh fish rpm \
	qemu-system-x86_64 busybox

# Each module by itself, as go install and CI see it: go.work is for editors.
export GOWORK := off

.DEFAULT_GOAL := build
.NOTPARALLEL:
.PHONY: build run image release test test-sdks test-modules test-release setup lint cross chaos chaos-cases fuzz e2e-k8s bench clean

build:
	$(BUILD) bin/poolinit

# Four workers that answer each message with itself. The shell becomes poolinit,
# so its PID is the one to signal.
run:
	@echo "Compiling poolinit and an example worker, which takes a minute or two the first time."
	@$(BUILD) bin/poolinit
	@CGO_ENABLED=0 $(GO) build -C worker -o $(CURDIR)/bin/echo ./examples/echo
	@printf '%s\n' "A pool of four workers (worker/examples/echo) that take messages. From another terminal:" "$$TRY"; \
	printf '  %-26s %s\n' "kill -USR1 $$$$" "replaces the workers one by one" \
		"kill -9 WORKER-PID" "shows that it comes back" \
		"kill $$$$, Ctrl-C here" "stops the pool"; \
	exec bin/poolinit -n 4 --ready notify --output prefix --listen 'tcp://127.0.0.1:8089?reply=always' -- bin/echo

define TRY
  printf 'hello\n' | bin/poolinit send tcp://127.0.0.1:8089
  printf '\0\0\0\5hello' | nc -N 127.0.0.1 8089 | tail -c +5
  php -r '$$f = stream_socket_client("tcp://127.0.0.1:8089"); fwrite($$f, pack("N", 5)."hello"); echo substr(fread($$f, 99), 4), "\n";'
endef
export TRY

# deploy/docker's images take the binary from it. For both architectures at once see CONTRIBUTING.md.
image:
	docker build -t poolinit:latest --build-arg VERSION=$(VERSION) --build-arg REVISION=$$(git rev-parse HEAD) .

release:
	rm -rf dist
	GO=$(GO) VERSION=$(VERSION) tools/release/release.sh dist

# With the packages, which make test leaves to CI: the tools that make them take a minute to compile.
test-release:
	RELEASE=1 $(GO) test -count=1 -timeout 10m -run TestRelease ./e2e/image

# The modules that other programs import, the example of one, and the feeders. The
# client is not for Linux only.
SDKS := worker client deploy/docker/go feeders
# Tests with heavy libraries have modules of their own, so that the product's stays small.
MODULES := e2e/browser e2e/kubernetes

# One line a package, what failed with its output, and at the end how many tests
# there were and which were skipped.
TOOL      := $(GO) tool -modfile=$(CURDIR)/tools/go.mod
GOTESTSUM := GO=$(GO) $(TOOL) gotestsum --format pkgname --format-icons text --format-hide-empty-pkg --raw-command -- tools/test.sh

# The race detector needs a C compiler; all else is tested without one as well.
test: setup lint cross build
	@if command -v gcc >/dev/null; then export RACE=-race CGO_ENABLED=1; else echo "no gcc: testing without the race detector"; fi; \
	echo "== tests: $(SDKS) $(MODULES) and the product; the first package takes a few minutes"; \
	$(GOTESTSUM) $(SDKS) $(MODULES) .
	@echo "== fuzz: each target for 3 s"
	@GO=$(GO) tools/fuzz.sh 3s

test-sdks:
	@$(GOTESTSUM) $(SDKS)

test-modules: build
	@$(GOTESTSUM) $(MODULES)

setup:
	@echo "== setup: looking for the programs that the tests run"
	@missing() { \
		for p in $(PROGRAMS); do command -v $$p >/dev/null || echo $$p; done; \
		if command -v php >/dev/null; then php -m | grep -qx redis || echo php-redis; fi; }; \
	what=$$(missing); \
	if [ -z "$$what" ]; then exit 0; fi; \
	echo "missing:" $$what; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		export DEBIAN_FRONTEND=noninteractive; \
		apt-get update -q && apt-get install -q -y --no-install-recommends $(PEERS) || echo "apt-get failed"; \
	fi; \
	what=$$(missing); \
	if [ -n "$$what" ]; then echo "tests that need these are skipped:" $$what; fi
	@tools/vm-kernel.sh bin/vm || echo "there is no kernel for e2e/vm: its tests are skipped"

lint:
	@echo "== lint: gofmt, go vet, staticcheck"
	@files=$$(gofmt -l .); if [ -n "$$files" ]; then echo "not formatted by gofmt:" $$files; exit 1; fi
	$(GO) vet ./...
	$(TOOL) staticcheck ./...
	$(GO) -C tools/release vet ./...
	@for m in $(SDKS) $(MODULES); do echo "$(GO) -C $$m vet ./..."; $(GO) -C $$m vet ./... || exit 1; done
	@for m in $(SDKS); do echo "staticcheck $$m"; (cd $$m && $(TOOL) staticcheck ./...) || exit 1; done

cross:
	@echo "== cross build: for arm64"
	GOARCH=arm64 $(BUILD) bin/poolinit-arm64
	GOARCH=arm64 $(GO) vet ./...
	@for m in $(SDKS); do echo "GOARCH=arm64 $(GO) -C $$m vet ./..."; GOARCH=arm64 CGO_ENABLED=0 $(GO) -C $$m vet ./... || exit 1; done
	GOOS=darwin $(GO) -C client vet ./...
	GOOS=windows $(GO) -C client vet ./...

# Rounds of random trouble, each with a seed that replays it: e2e/chaos says more.
CHAOS ?= 30m
SEED  ?= random
chaos:
	CHAOS=$(CHAOS) CHAOS_SEED=$(SEED) $(GO) test -count=1 -timeout 0 -run TestChaos -v ./e2e/chaos

# Kills, poison and reloads, as many as possible: ten minutes for each of these cases.
chaos-cases:
	CHAOS=10m $(GO) test -count=1 -timeout 100m -run TestChaos -v ./e2e/messages

FUZZ ?= 30s
fuzz:
	GO=$(GO) tools/fuzz.sh $(FUZZ)

# K8S_KIT brings the cluster up; e2e/kubernetes/cluster_kit_test.go says what has to be in it.
e2e-k8s:
	cd e2e/kubernetes && K8S_KIT=$(abspath $(K8S_KIT)) $(GO) test -tags k8s -count=1 -timeout 60m -v .

bench:
	$(GO) test -run '^$$' -bench . -timeout 30m ./bench

clean:
	rm -rf bin dist
