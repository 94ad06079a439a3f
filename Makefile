# `make book` and `make test` do everything, the environment included: they need Python 3.11 or newer and nothing else.
#
#   make book      run the chapters that changed and build the book: open _build/html/index.html
#   make test      style, types, every test, every chapter; what passed is run again when something under it changed
#   make check     style, types, the order of imports, and the tests that start no process: two minutes at most
#   make release   the wheel, the book and the students' notebooks as files in dist/
#   make clean     remove what was built and what is known to have passed (the environment stays; remove .venv by hand)
#
#   make test PYTHON=python3.12          choose the interpreter (when .venv is first made)
#   make test PIP_ARGS="--no-cache-dir"  pass options to pip, such as the index of another build of torch
#   make test PYTEST_ARGS="-k formats"   pass options to pytest
#   make test JOBS=4                     as many tests at once (0: one after another, in one process)
#   make test CONSTRAINTS=               install the newest versions instead of the tested ones

PYTHON = python3
CONSTRAINTS = -c constraints.txt
PIP_ARGS =
PYTEST_ARGS =
JOBS = 2
VENV = .venv
RUN = $(VENV)/bin/python
INSTALLED = $(VENV)/installed

.PHONY: book test check style release clean

# Modules are compiled when they are first imported, also where the environment says that they may not: of the twenty
# thousand that are installed few ever are, and those by thousands of processes.
export PYTHONDONTWRITEBYTECODE =

book: $(INSTALLED)
	$(RUN) -m tools.book

# Two workers share the cores: chapters get twice their time.
PYTEST = $(RUN) -m pytest --changed -n $(JOBS) --dist loadfile --no-loadscope-reorder --patience 2

test: style
	$(PYTEST) --nbmake $(PYTEST_ARGS)

check: style
	$(VENV)/bin/lint-imports --no-cache --no-logo
	$(RUN) -m mypy
	$(PYTEST) tests --ignore tests/book --ignore tests/exercises -m "not slow" $(PYTEST_ARGS)

style: $(INSTALLED)
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check

release: book
	rm -rf dist
	$(RUN) -m pip wheel --quiet --no-deps --wheel-dir dist .
	$(RUN) -c "import shutil; shutil.make_archive('dist/book', 'zip', '_build/html')"
	$(RUN) -c "import shutil; shutil.make_archive('dist/exercises', 'zip', 'notebooks/exercises')"

clean:
	rm -rf _build build dist .pytest_cache .ruff_cache

$(INSTALLED): pyproject.toml constraints.txt
	@command -v $(PYTHON) > /dev/null || { \
	  echo "No $(PYTHON) was found. Install Python 3.11 or newer, or name yours: make PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; v = ".".join(map(str, sys.version_info[:3])); sys.exit(sys.version_info < (3, 11) and \
	  f"Python 3.11 or newer is needed, and $(PYTHON) is {v}. Name another, such as: make PYTHON=python3.12")'
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { \
	  echo "This Python cannot make environments. On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --no-compile --disable-pip-version-check $(PIP_ARGS) $(CONSTRAINTS) --editable '.[dev]'
	@touch $(INSTALLED)
