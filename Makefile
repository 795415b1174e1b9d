# Concord's commands. `make help` lists them.

PYTHON ?= python3
RUN = .venv/bin/python
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

.PHONY: help setup up manage test check format migrations translations loop learn clean

help:  ## List these commands
	@grep -hE '^[a-z]+: .*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | while IFS="$$(printf '\t')" read -r name text; do printf '  make %-13s %s\n' "$$name" "$$text"; done

setup:  ## Make .venv and install what is missing
	@$(PYTHON) local/install.py

up: setup  ## Start everything here; PORT=8000, Ctrl-C stops it
	@exec $(RUN) -m local.supervisor

manage: setup  ## Run a management command: make manage ARGS="migrate"
	@exec $(RUN) -m local.servers $(RUN) manage.py $(ARGS)

test: setup  ## Check and test everything that needs no GPU
	@exec $(RUN) .ci/checks.py lint tests

check: setup  ## Check style, types, imports and migrations
	@exec $(RUN) .ci/checks.py lint

format: setup  ## Format the code and the templates
	@$(RUN) -m ruff check --quiet --fix-only . ; $(RUN) -m ruff format .
	@git ls-files -z 'templates/*.html' | xargs -0 -r .venv/bin/djade --target-version 5.2

migrations: setup  ## Write migrations for changed models: NAME=add_colour
	@exec $(RUN) -m local.servers $(RUN) manage.py makemigrations $(if $(NAME),--name $(NAME))

translations: setup  ## Bring the catalogues in locale/ up to date with the texts
	@exec $(RUN) -m tests.catalogue

loop: setup  ## The whole loop without a browser; DATA=… SEED=…
	@exec $(RUN) -m loop.run $(if $(DATA),--data $(DATA)) $(if $(SEED),--seed $(SEED))

learn: setup  ## What judging adds to written samples: many runs, half an hour; SEEDS="1 2 3"
	@exec $(RUN) -m benchmarks.learn $(if $(SEEDS),--seeds $(SEEDS))

clean:  ## Delete .venv and caches; your data in .concord stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
