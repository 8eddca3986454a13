# tawpipe: `make run` sees it train, `make test` proves it right.

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
TAWPIPE    := $(TARGET_DIR)/release/tawpipe

# Text to train on; empty: the King James Bible.
DATA ?=
RUN  := $(or $(RUN),runs/kjv-$(shell date +%Y%m%d-%H%M%S))
SET  := $(if $(DATA),--set data.text=$(abspath $(DATA)))

# Several ranks share one machine's cores, perhaps as root in a container. The first lines are for Open MPI 4, the last but
# one for Open MPI 5; MPICH needs none of them, and its mpirun knows --bind-to as well.
export OMPI_ALLOW_RUN_AS_ROOT = 1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM = 1
export OMPI_MCA_rmaps_base_oversubscribe = 1
export PRTE_MCA_rmaps_default_mapping_policy = :oversubscribe
MPIRUN ?= mpirun

# Some tests let an unmodified h5py read our files: the first Python that has it.
export TAWPIPE_PYTHON := $(or $(TAWPIPE_PYTHON),$(shell for p in python3 /usr/bin/python3; do $$p -c 'import h5py' 2>/dev/null && echo $$p && break; done))

.DEFAULT_GOAL := help
.PHONY: help deps build install uninstall run test test-mpich fresh lint bench experiment docs clean kernels kernels-emu gpu-bundle gpu-check

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@sed -n 's/^rust-version = "\(.*\)"/Rust \1 or newer is needed: from rustup, or Debian'"'"'s cargo-web and rustc-web, which `make deps` installs./p' Cargo.toml

deps: ## Install what is missing (apt), or say what to install
	@scripts/deps.sh

build: deps ## Build the release program
	@$(MAKE) --no-print-directory $(TAWPIPE)

# The GPU's kernels become part of the program where there is a compiler for them; elsewhere it looks for them when it runs.
NVCC_HERE := $(or $(NVCC),$(shell command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null))
KERNELS   := $(abspath $(TARGET_DIR))/kernels/fatbins

.PHONY: $(TAWPIPE)
$(TAWPIPE): $(if $(NVCC_HERE),kernels)
	$(if $(NVCC_HERE)$(wildcard $(KERNELS)/*.fatbin),TAWPIPE_KERNELS=$(KERNELS) )cargo build --release

# What is built is installed as it is, so that root needs no cargo. DESTDIR stages the files for a package.
PREFIX  ?= /usr/local
PARTS   := $(DESTDIR)$(PREFIX)
INSTALL ?= install

install: $(if $(wildcard $(TAWPIPE)),,build) ## Install program, kernels, man pages and completions; PREFIX=/usr/local DESTDIR=
	$(INSTALL) -D -m 755 $(TAWPIPE) $(PARTS)/bin/tawpipe
	$(TAWPIPE) __manual $(PARTS)/share
	@for kernel in $(wildcard $(KERNELS)/*.fatbin); do $(INSTALL) -D -m 644 -t $(PARTS)/lib/tawpipe/kernels $$kernel; done

uninstall: ## Remove what `make install` has installed; the same PREFIX and DESTDIR
	rm -f $(PARTS)/bin/tawpipe $(PARTS)/share/man/man1/tawpipe.1 $(PARTS)/share/man/man1/tawpipe-*.1 \
	    $(PARTS)/share/bash-completion/completions/tawpipe $(PARTS)/share/zsh/site-functions/_tawpipe \
	    $(PARTS)/share/fish/vendor_completions.d/tawpipe.fish
	rm -rf $(PARTS)/lib/tawpipe

# Ranks of one machine send through its memory; Open MPI 5 complains of some network cards, which are not used.
run: build ## Train a small LLaMA on 4 ranks as 2 nodes of 2; DATA=/any/text/file for your own text
	$(if $(DATA),,@scripts/text.sh)
	OMPI_MCA_btl=^tcp $(MPIRUN) -n 4 --bind-to none $(TAWPIPE) train inputs/kjv.toml --set run.folder=$(abspath $(RUN)) $(SET)
	$(TAWPIPE) generate $(RUN) --prompt "In the beginning" --tokens 300
	$(TAWPIPE) report $(RUN)

# In the development profile: there dependencies are optimised as in a release and our own code a little, which compiles
# three times faster than a release and runs the tests fast enough; and overflow and debug assertions are checked.
test: ## Run every test; ends with what passed, what failed and what could not run here
	@scripts/deps.sh test
	@$(MAKE) --no-print-directory all-tests

.PHONY: all-tests
all-tests:
	@scripts/test.sh --kernels

# In a folder of its own, because a build keeps the MPI that it was first built with.
test-mpich: ## The tests that start ranks, with MPICH (Debian: mpich libmpich-dev)
	MPICC=mpicc.mpich MPIRUN=mpirun.mpich CARGO_TARGET_DIR=$(TARGET_DIR)/mpich scripts/test.sh --test spmd --test failure

# SUITE=trixie for Debian 13; RUST=debian for a root without this machine's Rust; COMMAND='make run' for something else.
fresh: ## Run and test a clone of HEAD in a new minimal Debian root (root, mmdebstrap); SUITE=trixie, RUST=debian, COMMAND=…
	@scripts/fresh.sh $(if $(COMMAND),'$(subst ','\'',$(COMMAND))')

lint: deps ## Formatting, clippy and documentation, all warnings are errors
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items
	@scripts/lint.sh

# PyTorch is looked for in .venv-bench, where `python3 -m venv .venv-bench && .venv-bench/bin/pip install torch` puts it.
bench: build ## Compare speed and memory with PyTorch, if that is there; BENCH="--only tiny-f32" for a part
	@scripts/text.sh
	python3 benches/compare.py --binary $(abspath $(TAWPIPE)) $(BENCH)

# Links with a rate need root and iproute2: without them the cells without one run, beside each other on this machine.
# PyTorch as for `bench`. Results go to results/, which git ignores; those of docs/results are another machine's, and stay.
# The experiment ends by itself after 19 minutes; the same command goes on with what is missing.
EXPERIMENT ?= inputs/experiments/small.toml
RESULTS    ?= results/$(basename $(notdir $(EXPERIMENT)))
TORCH      ?= $(shell for p in .venv-bench/bin/python python3; do $$p -c 'import torch' 2>/dev/null && command -v $$p && break; done)

experiment: build ## Measure every system beside PyTorch on a virtual cluster (20 minutes); EXPERIMENT=… for another file
	@scripts/text.sh
	@on=; PATH="$$PATH:/usr/sbin:/sbin"; \
	if [ "$$(id -u)" != 0 ] || ! command -v ip tc >/dev/null; then \
	    echo "no root or no iproute2: links stay as they are, on this machine alone"; on="--on machine"; fi; \
	$(TAWPIPE) experiment $(EXPERIMENT) --results $(RESULTS) --limit 19 --torch "$(TORCH)" $$on; \
	code=$$?; [ $$code = 0 ] || [ $$code = 4 ] || exit $$code
	$(TAWPIPE) report $(RESULTS)

kernels: ## Compile the GPU's kernels; NVCC=… for a compiler of your own
	@$(MAKE) --no-print-directory -C kernels fatbins OUT=$(abspath $(TARGET_DIR))/kernels $(if $(NVCC),NVCC=$(NVCC))

# What `cargo test --test kernels` does by itself, in a folder of its own.
kernels-emu: ## Compile the kernels for the emulator, and the driver that it poses as
	@$(MAKE) --no-print-directory -C kernels emu driver OUT=$(abspath $(TARGET_DIR))/kernels

gpu-bundle: ## Pack what a machine with a GPU and PyTorch needs to check and measure this program; see docs/gpu-checks.md
	@scripts/gpu-bundle.sh

gpu-check: ## Check and measure this program on this machine's GPU; GPU="--emulated" tries the script without one
	@scripts/gpu-check.sh $(GPU)

docs: ## Build the documentation of the code
	cargo doc --no-deps --document-private-items

clean: ## Remove what was built; data and runs stay
	cargo clean
