# Everything happens in the virtual environment VENV: the system's Python is never touched.

VENV ?= .venv
# The Python that makes VENV; where it is not named, scripts/find-python looks for one.
PYTHON ?=
# More arguments, for `make serve ARGS="--bind :9000"` and `make test ARGS="-k chunked"`.
ARGS ?=

BIN = $(CURDIR)/$(VENV)/bin
EXAMPLES = examples/requirements.txt
TEST = $(EXAMPLES) requirements/test.txt
LINT = $(TEST) requirements/lint.txt
SOURCES = setup.py src tests examples $(wildcard benchmarks)
SYNC = PYTHON="$(PYTHON)" scripts/sync-venv "$(VENV)"
NATIVE = scripts/build-native "$(VENV)"
PYTEST = "$(BIN)/python" -m pytest
# Processes that run tests side by side. A test waits more than it computes, so there are more of them
# than cores; with too many, tests that measure time would measure each other.
JOBS ?= 6
# Which combinations of transports and numbers of threads: sampled, or whole.
TEST_MATRIX ?= sampled
PARALLEL = -n $(JOBS) --dist worksteal
WHOLLY = --cov-branch --cov-fail-under=100

.DEFAULT_GOAL := help
.PHONY: help serve test test-all announce suite parallel coverage lint format docs install-check bench counts compare soak native
.PHONY: lifecycle-soak story programs
.PHONY: native-test fuzz native-fuzz asan valgrind portable requirements audit clean

help:
	@echo 'make serve          set everything up and serve the Flask example on http://127.0.0.1:8000/'
	@echo 'make test           set everything up and run the test suite: 7 minutes on two cores'
	@echo 'make test-all       the same with every combination of transports, threads and ways of feeding'
	@echo 'make suite          run tests one by one: make suite ARGS="tests/wsgi -k close"'
	@echo 'make lint           check style, format and types'
	@echo 'make format         put the code into the format that lint asks for'
	@echo 'make docs           write the generated pages of docs/ anew'
	@echo 'make install-check  install into an environment of its own, and run the command there'
	@echo 'make bench          measure beside other servers, in an environment of its own, .bench'
	@echo 'make counts         hold instructions and system calls a request to their bounds'
	@echo 'make compare        compare the speed with another checkout: make compare BASE=/path'
	@echo 'make soak           send millions of requests, and see that nothing is lost or grows'
	@echo 'make lifecycle-soak reload, kill, recycle and upgrade under load, and count what is lost'
	@echo 'make story          record five faults under load; ARGS=--write writes docs/story.md'
	@echo 'make programs       run programs of others on both transports, and write docs/compatibility.md'
	@echo 'make native         build the native transport into the checkout, or say why it cannot be'
	@echo 'make native-test    check style and lints of the Rust in native/, and run its tests'
	@echo 'make fuzz           feed both transports the same, at random: CASES=5000 for each test'
	@echo 'make native-fuzz    run the fuzz targets of native/fuzz for SECONDS=60 each; needs nightly Rust'
	@echo 'make asan           run the wire tests on native code under AddressSanitizer; needs nightly Rust'
	@echo 'make valgrind       run them under memcheck; needs valgrind'
	@echo 'make portable       run them on what other systems than Linux run; needs a C compiler'
	@echo 'make requirements   write the requirements files with hashes anew, from the *.in files'
	@echo 'make audit          look for known vulnerabilities in what is used, and check the workflows'
	@echo 'make clean          remove what all of these made'

serve:
	@$(SYNC) serve $(EXAMPLES)
	@$(NATIVE)
	@cd examples && exec "$(BIN)/penstock" flaskapp:app --access-logfile - $(ARGS)

# The suite comes last, so that its summary is what one sees. `coverage` has run these folders by then.
test: COVERED = --ignore=tests/http1 --ignore=tests/wsgi
test: announce coverage parallel

announce:
	@echo 'make test takes about 7 minutes on two quiet cores, once $(VENV) is set up.'

parallel:
	@$(SYNC) test $(TEST)
	@$(NATIVE)
	TEST_MATRIX=$(TEST_MATRIX) $(PYTEST) $(PARALLEL) $(COVERED) $(ARGS)

test-all:
	@echo 'make test-all runs every combination, and takes longer than make test.'
	@$(MAKE) --no-print-directory coverage native-test
	@$(MAKE) --no-print-directory parallel TEST_MATRIX=whole

suite:
	@$(SYNC) test $(TEST)
	@$(NATIVE)
	$(PYTEST) $(ARGS)

# The protocol and the gateway are covered whole, by the tests of their own folder alone.
coverage:
	@$(SYNC) test $(TEST)
	@echo 'tests/http1 and tests/wsgi, each with the coverage of its room'
	@COVERAGE_FILE=.coverage.http1 $(PYTEST) tests/http1 -q --cov=penstock.http1 $(WHOLLY) & http1=$$!; \
	COVERAGE_FILE=.coverage.wsgi $(PYTEST) tests/wsgi -q --cov=penstock.wsgi $(WHOLLY); wsgi=$$?; \
	wait $$http1 && [ $$wsgi -eq 0 ]

lint:
	@$(SYNC) lint $(LINT)
	"$(BIN)/ruff" check $(SOURCES)
	"$(BIN)/ruff" format --check $(SOURCES)
	"$(BIN)/mypy"
	@"$(BIN)/python" scripts/report-length

format:
	@$(SYNC) lint $(LINT)
	"$(BIN)/ruff" check --fix $(SOURCES)
	"$(BIN)/ruff" format $(SOURCES)

docs:
	@$(SYNC) serve $(EXAMPLES)
	"$(BIN)/python" -m penstock.config.reference_page >docs/settings.md.new
	mv docs/settings.md.new docs/settings.md
	"$(BIN)/python" -m penstock.compat.gunicorn.reference_page >docs/gunicorn-settings.md.new
	mv docs/gunicorn-settings.md.new docs/gunicorn-settings.md
	"$(BIN)/python" -m penstock.compat.uwsgi.reference_page >docs/uwsgi-options.md.new
	mv docs/uwsgi-options.md.new docs/uwsgi-options.md
	"$(BIN)/python" -m penstock.telemetry.messages_page >docs/messages.md.new
	mv docs/messages.md.new docs/messages.md
	"$(BIN)/python" -m penstock.control.metrics_page >docs/metrics.md.new
	mv docs/metrics.md.new docs/metrics.md
	"$(BIN)/python" -m penstock.transport.states >docs/connection-states.md.new
	mv docs/connection-states.md.new docs/connection-states.md
	"$(BIN)/python" -m penstock.supervisor.state >docs/supervisor-states.md.new
	mv docs/supervisor-states.md.new docs/supervisor-states.md
	mkdir -p docs/man
	"$(BIN)/python" -m penstock.cli.man_pages docs/man

# As a user installs it: nothing of the checkout is on the path, nothing of the tools is there.
# PENSTOCK_NATIVE=require and =skip are for setup.py.
install-check:
	rm -rf .venv-install build
	"$(or $(PYTHON),$$(scripts/find-python))" -m venv .venv-install
	.venv-install/bin/python -m pip install --quiet --disable-pip-version-check .
	cd / && "$(CURDIR)/.venv-install/bin/penstock" --version

bench:
	@python="$(PYTHON)"; "$${python:-$$(scripts/find-python)}" benchmarks/run.py $(ARGS)

counts:
	@$(SYNC) serve $(EXAMPLES)
	@$(NATIVE)
	"$(BIN)/python" benchmarks/counts.py $(ARGS)

compare:
	@python="$(PYTHON)"; "$${python:-$$(scripts/find-python)}" benchmarks/compare.py "$(BASE)" $(ARGS)

soak:
	@python="$(PYTHON)"; "$${python:-$$(scripts/find-python)}" benchmarks/soak.py $(ARGS)

# It shares the tests' load, which counts exactly.
lifecycle-soak:
	@$(SYNC) test $(TEST)
	@$(NATIVE)
	PYTHONPATH=src:tests "$(BIN)/python" benchmarks/lifecycle_soak.py $(ARGS)

story:
	@$(SYNC) test $(TEST)
	@$(NATIVE)
	PYTHONPATH=src:tests "$(BIN)/python" benchmarks/story.py $(ARGS)

programs:
	@PYTHON="$(PYTHON)" scripts/run-programs $(ARGS)

# The tests and `make serve` do this, too, but go on without cargo.
native:
	@$(SYNC) serve $(EXAMPLES)
	@PENSTOCK_NATIVE=require $(NATIVE)

native-test:
	@if command -v cargo >/dev/null; then \
		cd native && cargo fmt --check && \
		cargo clippy --locked --all-targets -- -D warnings && cargo test --locked; \
	else \
		echo 'Skipped: the native tests need cargo, which is not installed.'; \
	fi

# For as long as one likes: some 80 examples of each test pass in a second, on both transports.
CASES ?= 5000
fuzz: native
	@$(SYNC) test $(TEST)
	cd native && cargo build --locked --release -p penstock-protocol --example events
	PENSTOCK_FUZZ_EXAMPLES=$(CASES) $(PYTEST) tests/fuzz -q $(ARGS)

SECONDS ?= 60
native-fuzz:
	@$(SYNC) test $(TEST)
	"$(BIN)/python" scripts/fuzz-seeds
	command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz
	cd native && for target in parser chunked_body head; do \
		cargo +nightly fuzz run $$target -- -max_total_time=$(SECONDS) -max_len=4096 \
			-timeout=5 -rss_limit_mb=1024 -print_final_stats=1 || exit; \
	done

asan valgrind portable:
	@$(SYNC) test $(TEST)
	VENV="$(VENV)" scripts/run-checked $@ $(ARGS)

requirements:
	PYTHON="$(PYTHON)" scripts/lock-requirements $(ARGS)

audit:
	PYTHON="$(PYTHON)" scripts/audit

clean:
	rm -rf .venv .venv-* .bench .bench.lock build dist .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	rm -rf native/target native/fuzz/target src/penstock/_native*.so
	rm -rf src/*.egg-info examples/helloworld/db.sqlite3
	find src tests examples -name __pycache__ -type d -prune -exec rm -rf {} +
