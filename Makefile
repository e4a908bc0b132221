PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
GENERATED := cms_python/api cms_python/models cms_python/api_client.py cms_python/api_response.py \
	cms_python/configuration.py cms_python/exceptions.py cms_python/rest.py
PAGES := docs/*Payload.md docs/ErrorResponse.md docs/TrackResponse.md docs/TrackingApi.md

.PHONY: help demo test check generate reference site screenshots clean

help:  ## show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(VENV)/sandbox.stamp  ## track leads and sales against a local sandbox
	@$(BIN)/python examples/quickstart.py

test: $(VENV)/dev.stamp  ## run the tests
	$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/dev.stamp  ## lint, and check the types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pyright --warnings --pythonpath $(BIN)/python

# The generator never removes a file, and ends lists with a comma that would keep them long.
generate: $(VENV)/generate.stamp  ## write the generated code and its reference pages anew
	rm -rf cms_python/api cms_python/models
	$(BIN)/openapi-generator-cli generate -c generator.yaml >/dev/null
	rm -rf .openapi-generator
	cp openapi.yaml cms_python/openapi.yaml
	$(BIN)/ruff check --quiet --isolated --target-version py39 --line-length 100 \
		--select F401,F811,I,UP006,UP035 --fix $(GENERATED)
	$(BIN)/ruff format --quiet --config 'format.skip-magic-trailing-comma = true' $(GENERATED) $(PAGES)

reference: $(VENV)/dev.stamp  ## write docs/reference.md and the snapshot of the public API anew
	$(BIN)/python docs/write_reference.py
	$(BIN)/python test/public_api.py --write

site: $(VENV)/dev.stamp  ## build the documentation site, into site/
	$(BIN)/python -m zensical build --strict

screenshots: $(VENV)/dev.stamp  ## take the pictures of docs/sandbox.md anew, in Chromium
	$(BIN)/python docs/take_screenshots.py

clean:  ## remove what the other commands made
	rm -rf $(VENV) build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/%.stamp: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	@touch $@
