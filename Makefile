# The ways to build, try and test pymilter-cffi. "make help" lists them.
# Another interpreter: make test PYTHON=python3.12

PYTHON = python3
export PYTHON

.PHONY: help demo test lint format build bench bench-check clean

help:
	@echo "make demo    build into a private environment, send a message through an SMTP server and sample.py"
	@echo "make test    set up what the tests need, and run them all"
	@echo "             (some of those in Python: make test ONLY=tests/unit)"
	@echo "make lint    ruff, mypy and clang-format"
	@echo "make format  let ruff and clang-format rewrite the sources"
	@echo "make build   source distribution and wheel, in dist/"
	@echo "make bench   measure this library and others (quick: BENCH=\"--only full --rounds 1\")"
	@echo "make bench-check  compare the last figures with the targets"
	@echo "make clean   remove everything that was built or set up here"
	@echo "Variables: PYTHON=$(PYTHON)"

demo:
	@scripts/demo

test:
	@scripts/test $(ONLY)

lint:
	@scripts/lint

format:
	@scripts/lint >/dev/null 2>&1 || true
	.venv-lint/bin/ruff check --fix .
	.venv-lint/bin/ruff format .
	find milter_c bench tests -name '*.[ch]' -not -path '*/build/*' -exec .venv-lint/bin/clang-format -i {} +

build:
	@scripts/build

bench:
	@scripts/setup-bench
	@.cache/bench-ours/bin/python bench/run.py $(BENCH)

bench-check:
	@[ -e .cache/bench/results.json ] || scripts/setup-bench
	@$(PYTHON) bench/check.py

clean:
	rm -rf build dist *.egg-info .venv .venv-demo .venv-lint .cache
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f Milter/_engine*.so Milter/_engine.c
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -rf bench/build
	@if [ -e milter_c/test/Makefile ]; then $(MAKE) -C milter_c/test clean; fi
