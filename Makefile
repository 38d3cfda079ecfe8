# Every command makes the environment when it is missing or older than its pins.
SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
READY := $(VENV)/.ready
BIN := $(CURDIR)/$(VENV)/bin
PRESET ?=
SET ?=
TARGETS ?=
FORCE ?=
MACHINE ?=
BENCH ?= orchestration
TORCH ?=
BUDGET ?=
ONLY ?=
KEEP ?=
TINY ?=
CHANGED ?=
POOL ?= gpu
JOBS ?= 2
REV ?= HEAD
STAGE ?= filter
REASON ?=

export PATH := $(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1
# flows/environment.py says why
export GOMP_SPINCOUNT ?= 1000
export DVC_SITE_CACHE_DIR := $(CURDIR)/.scratch/dvc
# a container's user may have no name, and DVC asks for one
export USER ?= $(shell id -un 2>/dev/null || id -u)
ifeq ($(wildcard .git),)
export DVC_SYSTEM_CONFIG_DIR := $(CURDIR)/.dvc/without_git
endif

.DEFAULT_GOAL := help

# a word that no recipe of the goals reads is refused before anything is made; what make starts inherits none of the words
quoted = '$(subst ','\'',$(1))'
words := $(foreach word,$(.VARIABLES),$(if $(filter command,$(origin $(word))),$(word)))
refusal := $(if $(words)$(MAKECMDGOALS),$(shell $(PYTHON) flows/params/make_words.py $(firstword $(MAKEFILE_LIST)) $(call quoted,$(MAKECMDGOALS)) $(foreach word,$(words),$(call quoted,$(word)))))
$(if $(refusal),$(error $(refusal)))
MAKEOVERRIDES =
# a word that was given, as one argument of an option
arg = $(if $($(1)),--$(2) $(call quoted,$($(1))))

.PHONY: help setup pipeline preset preflight variant study claims test test-system test-gpu gpu-check gpu-wheels chaos mutants smoke why audit repro reproduce bisect show rates methods settings ui agent lint plan bench bench-table peers browse chat serve export card verify-card merge trace clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

# torch first and by itself: an exact version takes the CPU build where one is offered, and a GPU build that is there stays
$(READY): constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dask,postgres,s3]' --group dev
	touch $(READY)

# Another torch, beside .venv: all pins hold but those of constraints-torch-<version>.txt, which take their place. No index is named,
# so pip takes the build of torch that its own settings offer.
.venv-torch-%/.ready: constraints-torch-%.txt constraints.txt pyproject.toml
	$(PYTHON) -m venv $(@D)
	grep -vE "^($$(sed -n 's/==.*//p' $< | paste -sd '|'))==" constraints.txt | cat - $< > $(@D)/constraints.txt
	$(@D)/bin/python -m pip install --quiet --upgrade pip
	$(@D)/bin/python -m pip install --quiet "$$(grep '^torch==' $<)"
	$(@D)/bin/python -m pip install --quiet -c $(@D)/constraints.txt -e '.[dask,postgres,s3]' --group dev
	touch $@

setup: $(READY)  ## make the environment (.venv), or bring it up to date with its pins

pipeline: $(READY)  ## bring the pipeline up to date: PRESET=smoke SET="rl.steps=50 seed=1" TARGETS="sft" FORCE=1
	@python -m tokenmill pipeline $(call arg,PRESET,preset) $(call arg,SET,set) $(call arg,TARGETS,targets) $(if $(filter-out 0 no false,$(FORCE)),--force)

variant: $(READY)  ## other parameters in a worktree of their own, beside this one: NAME=wide SET="rl.steps=50" REV=HEAD REMOVE=1; no NAME: all
	@python -m tokenmill variant $(call arg,NAME,name) $(call arg,REV,revision) $(if $(REMOVE),--remove) $(call arg,PRESET,preset) $(call arg,SET,set) $(call arg,TARGETS,targets)

study: $(READY)  ## what methods buy on your data, beside a baseline tuned as hard: ROOM=pretrain.optimizer METHODS="adamw muon" or STUDY=studies/optimizers.yaml; SEEDS TRIALS TARGET BUDGET="tokens=300000" MEASURE=evaluate@sft.accuracy BETTER CONTROL FIT=tokens PRESET SET
	@python -m tokenmill study $(call arg,STUDY,study) $(call arg,ROOM,room) $(call arg,METHODS,methods) $(call arg,SEEDS,seeds) $(call arg,TRIALS,trials) $(call arg,TARGET,target) $(call arg,BUDGET,budget) $(call arg,MEASURE,measure) $(call arg,BETTER,better) $(call arg,CONTROL,control) $(call arg,PRESET,preset) $(call arg,SET,set) $(call arg,FIT,fit) $(call arg,AT_ONCE,at-once)

claims: $(READY)  ## what papers say of our methods, held to studies on this machine, those that are stale: ONLY="muon"
	@python -m tokenmill claims $(call arg,ONLY,only) $(call arg,AT_ONCE,at-once)

preflight: $(READY)  ## what a run would fail on, found before it starts: PRESET=smoke SET="rl.steps=50" TARGETS="sft"
	@python -m tokenmill preflight $(call arg,PRESET,preset) $(call arg,SET,set) $(call arg,TARGETS,targets)

preset: $(READY)  ## write presets/NAME.yaml, whose width, batch, rates and tokens follow from a depth: DEPTH=12 TOKENS=2.5e9 NAME=mine
	@python -m tokenmill preset $(call arg,DEPTH,depth) $(call arg,TOKENS,tokens) $(call arg,NAME,name)

plan: $(READY)  ## memory, time and FLOP of a pipeline before it runs: PRESET=gpu-124m MACHINE=h100 SET="rl.steps=50"
	@python -m tokenmill plan $(call arg,PRESET,preset) $(call arg,SET,set) $(call arg,MACHINE,machine)

# A file's tests stay together: they share servers and projects; those files that take longest begin (tests/order.py)
BY_FILE := --dist loadfile --no-loadscope-reorder

# on a CPU wherever they run, since golden figures are a CPU's
test: $(if $(TORCH),.venv-torch-$(TORCH)/.ready,$(READY))  ## the tests but test-system's, on the CPU, by two processes: JOBS=8; CHANGED=1: what a change can reach; TORCH=2.11: with another torch
	@CUDA_VISIBLE_DEVICES= $(if $(TORCH),TOKENMILL_TEST_DEVICE=cpu .venv-torch-$(TORCH)/bin/)python -m pytest -q -n $(JOBS) $(BY_FILE) $(if $(filter-out 0 no false,$(CHANGED)),--changed) $(if $(TORCH),kernels tests/lm tests/gpu tests/system/lm/test_compiled_blocks.py tests/system/lm/test_compiled_parts.py,kernels tests --ignore=tests/system)

# three by default: who waits for a server leaves a core idle; all of them took 38 minutes on 2 cores when last timed
test-system: $(READY)  ## the tests of whole runs: servers, a browser, agents, Dask, PostgreSQL, ranks, kills: JOBS=8 CHANGED=1 SHARE=2/3
	@CUDA_VISIBLE_DEVICES= python -m pytest -q -n $(if $(filter command,$(origin JOBS)),$(JOBS),3) $(BY_FILE) $(call arg,SHARE,share) $(if $(filter-out 0 no false,$(CHANGED)),--changed) tests/system

test-gpu: $(READY)  ## what a GPU decides: the kernels' tests, and model, loop, sampler, quantization and ranks on it
	@python -m pytest -q kernels tests/gpu

gpu-check: $(READY)  ## nine minutes of a GPU, what is worth most first: BUDGET=520 ONLY=head,rollout; TINY=1 tries it on a CPU
	@python -m benchmarks.gpu $(call arg,BUDGET,budget) $(call arg,ONLY,only) $(if $(filter-out 0 no false,$(TINY)),--tiny)

# of manylinux for x86-64 and Python 3.12, whatever runs here
gpu-wheels: $(READY)  ## what the check needs on a bare machine with torch, as wheels: .scratch/wheels
	@python -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --dest .scratch/wheels $$(grep -E '^(pydantic|pydantic_core|annotated-types|typing-inspection|ruamel.yaml)==' constraints.txt)

chaos: $(READY)  ## break everything at some instant, sixty ways, edit what a stage reads at 265 instants, and see that the next run is right
	@TOKENMILL_CHAOS=all python -m pytest -q -n $(JOBS) tests/system/chaos tests/system/flows/test_held.py tests/system/flows/test_held_stages.py

mutants: $(READY)  ## plant hundreds of bugs, and see that each room's own tests catch them: ROOM=evaluate SHARE=3/10 KEEP=1
	@python -m tests.mutants $(call arg,ROOM,room) $(call arg,SHARE,share) $(if $(filter-out 0 no false,$(KEEP)),--keep) --jobs $(JOBS)

smoke: $(READY)  ## the whole pipeline, small, in a copy of its own, .scratch/smoke
	@python -m tokenmill smoke

why: $(READY)  ## why a stage is up to date or not, and which run made it: STAGE=pretrain
	@python -m tokenmill why $(STAGE)

audit: $(READY)  ## run a stage and fail if it touches a file, a parameter or a variable outside its key: STAGE=filter
	@python -m tokenmill audit $(STAGE)

repro: $(READY)  ## the same by `dvc repro` alone: no server
	@python -m tokenmill repro $(TARGETS) $(if $(filter-out 0 no false,$(FORCE)),--force)

show: $(READY)  ## figures of the models and stages that are up to date; STAGE=sft: what it learns from, and how much of that counts
	@python -m tokenmill show $(if $(filter command,$(origin STAGE)),--stage $(call quoted,$(STAGE)))

rates: $(READY)  ## which learning rates a stage that trains can have, and its sharpness, by a few steps of it: STAGE=pretrain
	@python -m tokenmill rates $(call quoted,$(STAGE))

methods: $(READY)  ## what can stand in each place of params.yaml, and what it is: ROOM=pretrain.optimizer, or a stage
	@python -m tokenmill methods $(call quoted,$(ROOM))

settings: $(READY)  ## the environment variables there are (docs/settings.md)
	@python -m tokenmill settings

reproduce: $(READY)  ## run a committed lock again and say what is the same, and why the rest is not: REV=HEAD, or an MLflow run
	@python -m tokenmill reproduce $(REV)

# a difference is the answer, and no error of make's
bisect: $(READY)  ## where and why two finished runs differ: A=../other B=. (folders, revisions or MLflow runs)
	@python -m tokenmill bisect $(or $(A),HEAD) $(or $(B),.) || [ $$? -eq 1 ]

ui: $(READY)  ## Prefect, MLflow and the report, and the form that starts the pipeline; they ask for the password that it prints, or TOKENMILL_PASSWORD
	@python -m tokenmill ui

agent: $(READY)  ## serve a pool's stages with this machine: POOL=gpu PREFECT_API_URL=http://server:4200/api
	@python -m tokenmill agent $(POOL)

lint: $(READY)  ## ruff and mypy
	@ruff check . && ruff format --check . && mypy flows tasks lm kernels benchmarks

bench: $(READY)  ## one benchmark, side by side with its peers: BENCH=roofs
	@python -m benchmarks.run $(BENCH)

bench-table: $(READY)  ## the newest row of every benchmark
	@python -m benchmarks.table

peers: $(READY)  ## the environment of the tools we compare with (.venv-peers)
	@python -m benchmarks.peers

browse: $(READY)  ## what a data stage dropped, and why, beside what it kept: STAGE=filter REASON=too_few_words
	@python -m tokenmill browse $(STAGE) $(REASON)

chat: $(READY)  ## talk to the model: MODEL=data/rl TEMPERATURE=0.8 TOKENS=64, COMPLETE=1 to go on with a text, STRATEGY=majority
	@python -m tokenmill chat $(or $(MODEL),data/rl) $(call arg,TEMPERATURE,temperature) $(call arg,TOKENS,max-new-tokens) $(call arg,STRATEGY,strategy) $(if $(filter-out 0 no false,$(COMPLETE)),--complete)

serve: $(READY)  ## a model behind OpenAI's API on this machine: MODEL=data/rl PORT=8000 ROWS=8 CONTEXT=4096 NAME=rl; it asks for the key that it prints, or TOKENMILL_PASSWORD
	@python -m tokenmill serve $(or $(MODEL),data/rl) $(call arg,PORT,port) $(call arg,ROWS,rows) $(call arg,CONTEXT,context) $(call arg,NAME,name)

export: $(READY)  ## a model in Hugging Face's format: MODEL=data/rl TO=exported; PACKED=1 as it is quantized (compressed-tensors); or for llama.cpp and Ollama: TO=model.gguf FORMAT=q8_0 (f16, q4_0)
	@python -m tokenmill export $(or $(MODEL),data/rl) $(or $(TO),exported) $(call arg,FORMAT,format) $(if $(filter-out 0 no false,$(PACKED)),--packed)

card: $(READY)  ## the model card of an exported model, by what the pipeline recorded: MODEL=data/quantize TO=exported LICENSE=apache-2.0 NOTES=notes.md
	@python -m tokenmill card $(or $(TO),exported) --model $(call quoted,$(or $(MODEL),data/rl)) $(call arg,LICENSE,license) $(call arg,NOTES,notes)

verify-card: $(READY)  ## what of a card is not so: of itself, its files and this checkout's pipeline: TO=exported; ALONE=1 without the last
	@python -m tokenmill card $(or $(TO),exported) --verify $(if $(filter-out 0 no false,$(ALONE)),--alone)

merge: $(READY)  ## a model with an adapter of the library peft in its weights: MODEL=data/pretrain ADAPTER=folder TO=merged
	@python -m tokenmill merge $(MODEL) $(ADAPTER) $(TO)

trace: $(READY)  ## what a step saw, what became of a document: STEP=100 SEQUENCE=3 POSITION=17, DOCUMENT=id, REMOVED=reason, LICENCES=1, SUSPECTS=1
	@python -m tokenmill trace $(if $(RUN),--run $(RUN)) $(if $(STEP),--step $(STEP)) $(if $(SEQUENCE),--sequence $(SEQUENCE)) $(if $(POSITION),--position $(POSITION)) $(if $(DOCUMENT),--document '$(DOCUMENT)') $(if $(REMOVED),--removed '$(REMOVED)') $(if $(LICENCES),--licences) $(if $(SUSPECTS),--suspects)

clean:  ## remove scratch and caches; data, models and runs stay, and checkpoints that a run goes on from or that are in use
	@if [ -x $(BIN)/python ]; then python -m flows.staleness.scratch; fi
	rm -rf .pytest_cache .hypothesis .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +
