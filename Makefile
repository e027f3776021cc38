# Every target sets itself up: it needs Python 3.10 or newer and PyPI, nothing else.
# An active virtual or conda environment is used as it is (what is missing is installed there); else .venv is made.
PYTHON = python3
ENVIRONMENT = $(or $(VIRTUAL_ENV),$(CONDA_PREFIX),$(CURDIR)/.venv)
python = "$(ENVIRONMENT)/bin/python"

# make run DATASET=flowers102 ... reaches the notebooks as SIMILARITY_DATASET=flowers102. Only what is written on
# the command line counts: a stray DATA or SEED in somebody's shell must not change a run.
SETTINGS = PROFILE DATASET DATA BACKBONE WEIGHTS CHECKPOINTS CACHE SEED DEVICE GRAYSCALE IMAGE_SIZE EPOCHS SEEDS EMBEDDING_SIZE
$(foreach name,$(SETTINGS),$(if $(filter command,$(origin $(name))),\
  $(eval export SIMILARITY_$(name) = $$(value $(name)))))
given = $(foreach name,$(.VARIABLES),$(if $(findstring command,$(origin $(name))),$(name)))
unknown = $(filter-out $(SETTINGS) NOTEBOOKS PYTHON TORCH REPOSITORY,$(given))
$(if $(unknown),$(error there is no setting $(unknown); there are: NOTEBOOKS $(SETTINGS) PYTHON TORCH))
override NOTEBOOKS := $(if $(filter command,$(origin NOTEBOOKS)),$(NOTEBOOKS))
override TORCH := $(if $(filter command,$(origin TORCH)),$(TORCH))
torch_index = https://download.pytorch.org/whl/$(TORCH)

# Tests and committed outputs are about the offline default, whatever the user's own settings are.
defaults = unset $$(env | sed -n 's/^\(SIMILARITY_[A-Z_]*\)=.*/\1/p') MPLBACKEND; export HF_HUB_OFFLINE=1 SIMILARITY_DEVICE=cpu \
  OMP_WAIT_POLICY=PASSIVE PYTHONHASHSEED=0 PYTHONWARNINGS=ignore::DeprecationWarning,ignore::FutureWarning

# $(call install,FILE): install FILE's requirements, unless the stamp inside the environment says that these very
# requirements are there already.
define install
if [ ! -x $(python) ]; then $(call make_environment); fi; \
stamp="$(ENVIRONMENT)/.image-similarity-$(1)"; \
if ! cat requirements*.txt | cmp -s - "$$stamp"; then \
  $(call check_version,$(python)); \
  echo "Installing what is missing of $(1) in $(ENVIRONMENT) (once; some minutes)"; \
  $(python) -m pip --version >/dev/null 2>&1 || $(python) -m ensurepip >/dev/null || exit 1; \
  $(if $(TORCH),$(python) -m pip install torch torchvision --index-url $(torch_index) || exit 1;) \
  $(python) -m pip install -r $(1) || exit 1; \
  cat requirements*.txt > "$$stamp"; \
fi
endef

define make_environment
  $(if $(VIRTUAL_ENV)$(CONDA_PREFIX),echo "make: $(ENVIRONMENT) is active but has no bin/python" >&2; exit 1;) \
  $(call check_version,"$(PYTHON)"); \
  "$(PYTHON)" -m venv .venv || { rm -rf .venv; exit 1; }
endef

check_version = $(1) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
  echo 'make: $(subst ",,$(1)) is not Python 3.10 or newer; name one: make PYTHON=python3.12' >&2; exit 1; }

.PHONY: help run lab test test-slow notebooks results bench address lint clean

help: ## this list
	@sed -n 's/^\([a-z-]*\): ## /  make \1	/p' Makefile
	@echo
	@echo '  Settings:  NOTEBOOKS="R1 R3"  $(patsubst %,%=,$(wordlist 1,8,$(SETTINGS)))'
	@echo '             $(patsubst %,%=,$(wordlist 9,99,$(SETTINGS)))'
	@echo '  Example:   make run NOTEBOOKS="R1 R2 R3" DATASET=folder:pictures PROFILE=standard'
	@echo '  PYTHON=python3.12 chooses the interpreter that makes .venv, TORCH=cpu a torch without CUDA (a tenth of the size)'

# glibc returns large blocks to the system and asks for them again, page by page: a tenth of training's time. Keep them.
run: export MALLOC_MMAP_THRESHOLD_ = 1000000000
run: export MALLOC_TRIM_THRESHOLD_ = 4000000000
run: ## execute the notebooks in order (copies and HTML in runs/), then print the leaderboard
	@$(call install,requirements.txt)
	@$(python) -m common.notebooks $(NOTEBOOKS)
	@$(python) -m common.ledger

# All three are run, whatever fails before, and the last line says which failed. Notebooks go on after a failed cell
# (no -x): what they hand on is still made, and every cell that differs is named in one run.
test: ## lint, unit tests, then every notebook again, exercises solved, with its checked outputs compared
	@$(call install,requirements-dev.txt)
	@ls R[1-7]_*.ipynb >/dev/null || { echo "make: there is no notebook to test in $(CURDIR)" >&2; exit 1; }
	@$(defaults); scratch=$$(mktemp -d) || exit 1; trap 'rm -rf "$$scratch"' EXIT; trap 'exit 1' INT TERM HUP; \
	failed=; check() { name=$$1; shift; echo "$$@"; "$$@" || failed="$$failed$${failed:+, }$$name"; }; \
	check lint $(python) -m ruff check .; \
	check "unit tests" $(python) -m pytest tests; \
	export SIMILARITY_CHECKPOINTS="$$scratch/checkpoints" SIMILARITY_CACHE="$$scratch/cache"; \
	check "solutions of exercises" $(python) tests/curriculum/solutions.py "$$scratch/notebooks" R[1-7]_*.ipynb; \
	export PYTHONPATH="$(CURDIR)"; \
	check notebooks $(python) -m pytest -p no:xdist --nbval-lax --nbval-current-env -c pyproject.toml \
	  --nbval-sanitize-with=tests/nbval_sanitize.cfg --nbval-cell-timeout=600 "$$scratch/notebooks"; \
	if [ "$$failed" ]; then echo "make test failed: $$failed" >&2; exit 1; fi; \
	echo "make test passed: lint, unit tests, notebooks"

lab: ## a page to play in: compare pictures, fool the models, ask why, search (needs the models of make run)
	@$(call install,requirements.txt)
	@$(python) -m lab.app

test-slow: ## 200 times kill -9, two runs at once, ten thousand odd inputs: half an hour
	@$(call install,requirements-dev.txt)
	@$(defaults); $(python) -m pytest tests/slow

notebooks: ## refresh the committed outputs, on the offline default
	@$(call install,requirements.txt)
	@$(defaults); $(python) -m common.notebooks --in-place $(NOTEBOOKS)

results: ## measure every approach on photographs again: DATA=folder of the data sets (an hour or more)
	@$(call install,requirements.txt)
	@$(if $(SIMILARITY_DATA),,$(error make results needs DATA=folder))
	@$(python) -m benchmarks.results "$$SIMILARITY_DATA"
	@$(python) -m benchmarks.backbones "$$SIMILARITY_DATA"
	@$(python) -m benchmarks.readme_tables

bench: ## how fast we are beside well-known libraries, as ratios: prints and writes benchmarks/speed.csv
	@$(call install,requirements-dev.txt)
	@$(python) -m benchmarks.speed

address: ## put a copy's own address into badges and set-up cells: REPOSITORY=you/your-repository
	@"$(PYTHON)" .ci/address

lint: ## ruff, the notebooks included
	@$(call install,requirements-dev.txt)
	$(python) -m ruff check .

clean: ## remove .venv, runs/ and the tools' caches; checkpoints stay
	rm -rf .venv runs .pytest_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
