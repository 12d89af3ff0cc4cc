# make demo      set up, then the whole pipeline on the embedded data, into models/demo/
# make test      set up, then the tests
# make check     set up, then format, lint, types and the layers of the code
# make install   the set-up alone; on a GPU machine: make install EXTRAS=train,gpu,tensorrt,rtx,dev

PYTHON ?= python3
EXTRAS ?= train,cpu,rtx,openvino,serve,score,ray,sign,tensorboard,dev
BIN := .venv/bin
COMMA := ,
INSTALLED := .venv/installed-$(subst $(COMMA),-,$(EXTRAS))

.PHONY: demo test check install stress docs proto clean

demo: install
	$(BIN)/alexnet-deploy demo
	@command -v alexnet-deploy >/dev/null || echo 'First:  . .venv/bin/activate, which puts alexnet-deploy on your path'

test: install browser
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

stress: install
	$(BIN)/python -m pytest tests/stress --stress

install: $(INSTALLED)

# The tests of web pages look at them in Chromium. Where it is missing and cannot be installed they are skipped, and say so.
browser:
	@for name in chromium chromium-browser google-chrome; do command -v $$name >/dev/null && exit 0; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; \
	else echo "no Chromium here: the tests of web pages are skipped (on Debian: apt-get install chromium)"; fi

# The stamp is written last: a set-up that was interrupted is done again.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "alexnet-deploy needs Python 3.11 to 3.13, and $(PYTHON) is $$($(PYTHON) --version 2>&1); try: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

# After a change of commands, docstrings or error messages: the pages that are made from them.
docs: install
	$(BIN)/python tools/make_reference.py
	$(BIN)/python tools/make_error_table.py

# After a change of open_inference.proto; needs the package grpcio-tools.
proto: install
	cd alexnet_deploy/serving && $(CURDIR)/$(BIN)/python -m grpc_tools.protoc -I. --descriptor_set_out=open_inference.desc open_inference.proto

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
