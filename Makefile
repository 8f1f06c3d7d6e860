# Everything runs in .venv, which is made when it is needed and made again when its description changes.
#   make demo       a real containerd runs a real image out of a repository
#   make test       check, then all tests; as root, for they mount (two at a time)
#   make test-fast  after each change: what needs no root, engines or FUSE, and is not slow (about a minute)
#   make check      ruff, mypy and the links of the documentation
#   make site       the documentation as a site, in site/
#   make deb        the Debian package, in dist/; as root, for it is built in a Debian of its own
#   make protos     regenerate the modules below protos/
#   make bench      ratios against containerd's overlayfs
#   make clean      remove what the above left; the .venv and .cache/ are kept
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
JOBS ?= 2
# Tests start some hundred commands and daemons: where this is set, each would compile the project once more.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-fast check site deb protos bench clean

$(READY): pyproject.toml requirements.lock tools/make-venv
	@echo "Preparing $(VENV) (a minute, once) ..."
	@tools/make-venv "$(PYTHON)" "$(VENV)"
	@touch $@

demo: $(READY)
	@$(RUN) -m tests.demo

test: check
	@test "$$(id -u)" = 0 || { echo "make: test needs root, for it mounts file systems: sudo make test" >&2; \
		echo "      (without root: make test-fast)" >&2; exit 1; }
	$(RUN) -m pytest -n $(JOBS) --dist loadscope

test-fast: $(READY)
	$(RUN) -m pytest -n $(JOBS) --dist loadscope --hypothesis-profile few \
		-m "not engine and not fuse and not slow and not bench"

check: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	@NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --site-dir build/site

site: $(READY)
	@NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --site-dir site

deb: $(READY)
	@tree=$$($(RUN) -m tests.packages.trees build-12) && tools/build-deb --tree "$$tree" dist

protos: $(READY)
	$(RUN) -m tools.generate_protos

bench: $(READY)
	@$(RUN) -m tests.bench

clean:
	rm -rf build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -not -path './.cache/*' -prune -exec rm -rf {} +
