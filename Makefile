# Qudao. Two commands matter:
#   make run    installs what is missing, builds, fetches a model, starts the platform
#   make test   installs what is missing, builds, runs every test
# The rest are their steps.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help run test build web setup plugins cuda models test-rust test-model test-web test-e2e check clean

# Node from a package, for machines whose own is missing or too old (scripts/setup.sh).
export PATH := $(PATH):$(CURDIR)/target/tools/node/bin

BIN := target/release
HOST_PACKAGES := -p qudao-cli -p qudao-plugin-host -p xtask
# The crates of the platform are optimised as one; the same stands in xtask/src/main.rs.
AS_ONE := CARGO_PROFILE_RELEASE_LTO=thin

help:
	@sed -n '2,4p' Makefile | sed 's/^# \{0,1\}//'

setup:
	@scripts/setup.sh run

# --- run ---------------------------------------------------------------------------------------

run: build models
	@exec $(BIN)/qudao serve --demo

build: setup web
	@scripts/step.sh "building the platform" env $(AS_ONE) cargo build --release $(HOST_PACKAGES)
	@$(MAKE) --no-print-directory plugins

plugins:
	@scripts/step.sh "building the plugins" $(BIN)/xtask plugins

# The plugins' artifacts for GPUs, on any machine with room for 1.2 GB of NVIDIA's packages; takes an
# hour on two cores. `make plugins` lays them out with the others.
cuda:
	@scripts/step.sh "building the plugins for GPUs" scripts/cuda.sh

models:
	@$(BIN)/qudao model pull --default

# Pages are built once per change of their sources.
web: web/chat/dist/index.html web/console/dist/index.html web/docs/dist/index.html web/widget/dist/widget.js

WEB_CHAT_SOURCES := $(shell find web/chat -type f -not -path '*/node_modules/*' -not -path '*/dist/*' 2>/dev/null)
web/chat/dist/index.html: $(WEB_CHAT_SOURCES)
	@scripts/step.sh "building the chat page" scripts/npm-build.sh web/chat

# The look and the settings come from the chat page.
WEB_CONSOLE_SOURCES := $(shell find web/console web/chat/src -type f -not -path '*/node_modules/*' -not -path '*/dist/*' 2>/dev/null)
web/console/dist/index.html: $(WEB_CONSOLE_SOURCES)
	@scripts/step.sh "building the console" scripts/npm-build.sh web/console

# It draws with the chat page's parts.
WEB_WIDGET_SOURCES := $(shell find web/widget web/chat/src -type f -not -path '*/node_modules/*' -not -path '*/dist/*' 2>/dev/null)
web/widget/dist/widget.js: $(WEB_WIDGET_SOURCES)
	@scripts/step.sh "building the widget" scripts/npm-build.sh web/widget

WEB_DOCS_SOURCES := $(shell find web/docs -type f -not -path '*/node_modules/*' -not -path '*/dist/*' 2>/dev/null)
web/docs/dist/index.html: $(WEB_DOCS_SOURCES)
	@scripts/step.sh "collecting the API reference page" scripts/npm-build.sh web/docs

# --- test --------------------------------------------------------------------------------------

test:
	@scripts/setup.sh test
	@scripts/test.sh

check:
	@cargo xtask check

clean:
	rm -rf target dist web/*/dist web/*/node_modules tests/e2e/node_modules
