# The two commands of the README are `make demo` and `make test`; both install what is missing.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TEMPLATES := docs/opennebula

.PHONY: help
help: ## show the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | column -t -s '|'

.PHONY: host
host: # system packages that tests and lab need; quiet where all is there
	@bash tests/lab/setup.sh

$(STAMP): pyproject.toml appliance/__init__.py | host
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

.PHONY: install
install: $(STAMP) ## make the virtual environment with all tools

.PHONY: demo
demo: host ## boot a service in the lab and show it come up (ONCE=1: end when it is up; ROLES=2,3,2,1)
	@$(PYTHON) -m tests.lab demo $(if $(ONCE),--once) $(if $(ROLES),--roles $(ROLES))

.PHONY: check
check: $(STAMP) ## linters and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	# S3 wants nesting shown inside the delimiters; here blocks are told by their own lines.
	$(BIN)/j2lint --ignore S3 -- service.d
	shellcheck packer/*.sh packer/deb/p* packer/scripts/*.sh tests/lab/*.sh tests/api/*.sh tests/image/*.sh \
	    tests/image/provision/*.sh tests/packer/base/*.sh .ci/run

.PHONY: unit
unit: $(STAMP) ## tests that need no lab
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not lab and not bake and not api and not image and not packer"

.PHONY: bake
bake: $(STAMP) ## tests of what makes the image (root, network)
	$(BIN)/python -m pytest -n auto --dist loadfile -m bake tests/packer

.PHONY: lab
lab: $(STAMP) ## tests that boot nodes, and one that boots a whole machine (root)
	$(BIN)/python -m tests.image bake
	$(CURDIR)/$(BIN)/python -m tests.lab test

.PHONY: test-image
test-image: $(STAMP) ## all tests that boot a whole machine under QEMU (root)
	$(CURDIR)/$(BIN)/python -m tests.image test

.PHONY: test-packer
test-packer: $(STAMP) ## build the image with Packer and boot what comes out (root, network, Debian 12; half an hour)
	$(CURDIR)/$(BIN)/python -m tests.packer test

.PHONY: test-api
test-api: $(STAMP) ## tests against a real API server (KUBE_APISERVER=PROGRAM; tests/api/build.sh FOLDER makes one)
	KUBE_APISERVER=$(KUBE_APISERVER) ONEKE_CRDS=$(CRDS) $(BIN)/python -m pytest -m api tests/api

.PHONY: conformance
conformance: $(STAMP) ## run the vectors and show the figures per area
	$(BIN)/python -m tests.conformance

.PHONY: bench
bench: $(STAMP) ## measure gateway and service on a quiet machine (root)
	$(BIN)/python -m tests.lab box --bake -- $(CURDIR)/$(BIN)/python -m bench.gateway
	$(BIN)/python -m tests.lab box -- $(CURDIR)/$(BIN)/python -m bench.service

.PHONY: docs
docs: $(STAMP) ## write anew what is made of the parameter declarations
	$(BIN)/oneke-agent params --format markdown > docs/parameters.md
	$(BIN)/oneke-agent params --format oneflow > $(TEMPLATES)/service-template.json
	$(BIN)/oneke-agent params --format oneflow-7 > $(TEMPLATES)/service-template-7.json
	$(BIN)/oneke-agent params --format oneflow-values > $(TEMPLATES)/instantiate.json
	$(BIN)/oneke-agent params --format marketplace > $(TEMPLATES)/marketplace.yaml
	for role in vnf master worker storage; do \
	    $(BIN)/oneke-agent params --format vm-template --role $$role > $(TEMPLATES)/$$role.tmpl; done
	$(BIN)/python -m tests.conformance --write-deviations docs/deviations.md

.PHONY: deb
deb: host ## make a Debian package of the agent for this release and machine, in dist
	packer/deb.sh dist

.PHONY: lock
lock: $(STAMP) ## write anew which files of which packages the agent is made of (network)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[lock]'
	UV=$(CURDIR)/$(BIN)/uv packer/lock.sh

.PHONY: test
test: check unit bake lab ## everything; ends with the count of all tests
