# What one types while working on postern; `make` alone lists it. .ci/run calls these too, so that a check has one home.

FUZZTIME ?= 30s
KILLS    ?= 1000
IMAGE    ?= postern
BUILDER  ?= docker
BUILDFLAGS ?=
VERSION  ?= $(shell git describe --tags --dirty 2>/dev/null || echo devel)

# As in the Dockerfile: static, and the same bytes wherever the source lies.
BUILD = CGO_ENABLED=0 go build -trimpath -ldflags="-s -w"
STATICCHECK = go tool -modfile=$(CURDIR)/tools/go.mod staticcheck

# What runs one process after another, and what measures time, tells nothing more under the race detector; nor does
# a second engine, of which the detector sees the same code of ours.
RACESKIP = ^(TestCommandLine|TestAlert(Rules|Thresholds)|TestMonitoringRuns|TestDocsNginx|TestJob(EndsPostern|GetsSignals|Killed)|TestPodDeleted|TestWait(HoldsAnApplicationBack|ToldToEnd)|TestUsage(OfAKilledPostern|WhileLinksFail)|TestApplyMany|TestStoreMigrateWaits|TestUnits|TestUnitSystemCalls|TestMoveLiveAPI|TestEveryCommandHelps|TestInteropNode|TestArchitecture|TestRow140BombsAreCheap|TestRow128IdleConnections|TestWebSocketNode|TestRollingRestart|TestMemoryOfManyClients|TestRevocationsWhileLinksFail|TestStoreFailsOverToOlderState|TestRow(157|158|159|162|164)(Postgres|Store).*|TestRow047KeyRotated|TestRow048KeyRevoked|TestRow166KillWhileKeysRotate)$$|.*/^postgres$$

.PHONY: help build test race fuzz lint vuln tidy schema charts check-all kill bench image pod

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

build: ## The binary, ./postern
	$(BUILD) -o postern .

test: ## All tests; those that need nginx, haproxy, strace, … skip loudly where these are missing
	go test ./...

# The race detector needs cgo; the programs that tests build do not (-exec), and find what was compiled before.
race: ## The tests under the race detector (needs a C compiler)
	CGO_ENABLED=1 go test -race -timeout 20m -skip '$(RACESKIP)' -exec 'env CGO_ENABLED=0' ./...

fuzz: ## Each fuzz target for FUZZTIME=30s, one after the other
	tools/fuzz $(FUZZTIME)

lint: ## gofmt, go vet and staticcheck, on every module
	@bad=$$(gofmt -l .); [ -z "$$bad" ] || { echo "gofmt would change:"; echo "$$bad"; exit 1; }
	go vet ./...
	$(STATICCHECK) ./...
	cd bench && go vet ./... && $(STATICCHECK) ./...
	cd charts/test && go vet ./... && $(STATICCHECK) ./...
	cd tools && go vet ./... && $(STATICCHECK) ./...

vuln: ## Known vulnerabilities that the code reaches (asks a database on the Internet)
	go run golang.org/x/vuln/cmd/govulncheck@v1.9.0 ./...

tidy: ## Whether go.mod and go.sum say exactly what is needed
	go mod tidy -diff
	cd bench && go mod tidy -diff
	cd tools && go mod tidy -diff
	cd charts/test && go mod tidy -diff

schema: ## Make again what is generated: JSON Schemas, tables of READMEs
	go generate ./...
	go test -run TestReadmeTables . -update-readme
	go test -run TestChart . -update-chart

charts: ## The tests of the Helm charts, with Helm 3 and 4, which are compiled first (minutes, once)
	cd charts/test && go test -timeout 20m ./...

check-all: lint tidy build test race fuzz ## All of the above that needs no network: before a submission

kill: ## The durability tests with KILLS=1000 kills instead of the few of an ordinary run
	POSTERN_KILLS=$(KILLS) go test -count=1 -timeout 3h -v -run '^TestRow16[456]Kill' ./registry

bench: ## postern beside its peers; more in bench/README.md
	cd bench && go run .

image: ## The container image, compiled inside; BUILDER=podman works too
	$(BUILDER) build $(BUILDFLAGS) --build-arg VERSION=$(VERSION) --build-arg REVISION=$(shell git rev-parse HEAD) -t $(IMAGE) .

pod: ## What the charts render, run as a real pod; needs root, podman, runc, netavark, catatonit and iptables
	cd tools && go test -count=1 -timeout 150s -v ./pod
