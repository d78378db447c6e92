# Everyday commands. `make help` lists them.
.PHONY: help build test race lint generate bench bench-proxy bench-load bench-load-memory soak soak-proxy storm-proxy stable kill-matrix simulate fuzz ci

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s '	'

build: ## build bin/chaosctl, one static binary
	CGO_ENABLED=0 go build -trimpath -o bin/chaosctl ./cmd/chaosctl

test: ## every test that needs no network, root or Docker
	go test ./...

race: ## the same under the race detector
	go test -race ./...

lint: ## gofmt, vet, staticcheck
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo "run: gofmt -w ."; exit 1; }
	go vet ./...
	go tool staticcheck ./...

generate: ## write docs/cli.md, docs/faults.md, docs/rows.md and docs/scenario.schema.json anew
	go test ./cmd/chaosctl -run '^TestGenerated$$' -update

bench: build ## start-up and run times, into docs/PERFORMANCE.md
	go run ./test/bench/startup -binary bin/chaosctl

bench-proxy: build ## our proxy beside Toxiproxy and HAProxy, into docs/PERFORMANCE.md (18 min on a quiet machine); ARGS=-quick shows that it works
	go run ./test/bench/proxy -binary bin/chaosctl $(ARGS)

bench-load: build ## our load generator beside wrk, vegeta, k6 and others, into docs/PERFORMANCE.md (22 min); ARGS=-quick likewise
	go run ./test/bench/load -binary bin/chaosctl $(ARGS)

bench-load-memory: build ## memory over 10 million requests, ours and the others' (3 min); the goal is at most 20 MB more than after the first second
	go run ./test/bench/load -binary bin/chaosctl -only growth

soak: build ## a whole run at 500 requests/s, a fault every 5 s, for 30 minutes: nothing may grow; into docs/PERFORMANCE.md; FOR=2m shows that it works
	go run ./test/soak -binary bin/chaosctl -what run -for $(or $(FOR),30m) -doc docs/PERFORMANCE.md

soak-proxy: build ## 10 minutes of connections, bytes and toxics through proxy serve: nothing may grow; into docs/PERFORMANCE.md; FOR=1m shows that it runs, and is too short to tell
	go run ./test/soak -what rest -for $(or $(FOR),2m) -doc docs/PERFORMANCE.md
	go run ./test/soak -binary bin/chaosctl -for $(or $(FOR),10m) -doc docs/PERFORMANCE.md

storm-proxy: ## the proxy under the race detector: API calls against 200 connections for 60 s; 1 GB past splice(2), and 1 GB each way, under rules that come and go
	go test -race ./faults/toxiproxy -run '^TestStorm$$' -storm-conns 200 -storm-for 60s -v
	go test -race ./faults/proxy -run '^TestDirectLosesNothing$$' -bytes 1000000000 -v -timeout 20m
	go test ./faults/proxy -run '^TestBytesAreTheSame$$' -bytes 1000000000 -v -timeout 20m

stable: build ## every library scenario 20 times, three at once (30 min); writes docs/stability.md
	bash test/stable.sh 20 --lanes 3

simulate: ## how often bounds and verdicts are wrong, 4,000 phases per case (10 min), into docs/statistics.md
	go test ./experiments/verdict -run '^TestSimulated' -count 1 -simulate -timeout 60m

kill-matrix: build ## end chaosctl at 540 points, see that nothing is left, into docs/kill-matrix.md (1 to 2 min); POINTS=… SEED=…
	go test ./test/killmatrix -count=1 -v -timeout 30m -binary ../../bin/chaosctl -points $(or $(POINTS),540) -seed $(or $(SEED),1) -doc ../../docs/kill-matrix.md

fuzz: ## every fuzz target for 30 s
	bash test/fuzz.sh 30s

ci: ## what CI runs
	bash .ci/run
