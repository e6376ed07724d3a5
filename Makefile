# make demo: sets up, then runs the whole story on an embedded software TPM.   make test: sets up, then tests.
# make demo-mesh: two controllers, and three hosts that they vouch for.
# make install, make uninstall: as a service, see docs/operations.md.
SHELL := /bin/bash
PYTHON ?= /usr/bin/python3
BIN := .venv/bin
# What an installed host needs, what development needs besides, and what only tests do.
NEEDED := python3-venv python3-dev gcc pkg-config libtss2-dev swtpm swtpm-tools
PACKAGES := $(NEEDED) tpm2-tools sudo systemd
TEST_PACKAGES := softhsm2 postgresql curl

# $(call require,PACKAGES): installs what is missing of them.
define require
missing=$$(dpkg-query -W -f='$${db:Status-Status} $${Package}\n' $(1) 2>&1 | grep -v '^installed ' || true); \
if [ -n "$$missing" ]; then \
  if [ "$$(id -u)" != 0 ]; then echo "system packages are missing; as root: apt-get install -y $(1)" >&2; exit 1; fi; \
  apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $(1); \
fi
endef

# Commands are started by the hundred, and tests collected by each worker: what was compiled is kept.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo demo-mesh test lint types contracts collected unit bench fuzz soak clean vm-setup vm-test

demo: setup
	@$(BIN)/python docs/demo.py

demo-mesh: setup
	@$(BIN)/python docs/demo_mesh.py

test: setup .venv/.test-packages
	@$(MAKE) --no-print-directory -j 2 lint types contracts collected
	@$(MAKE) --no-print-directory unit

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	$(BIN)/mypy

contracts:
	$(BIN)/lint-imports --no-cache

# Every worker would compile every test: one does so for all, while mypy has the other core. What is wrong, `unit` says.
collected:
	@$(BIN)/pytest --collect-only -qq > /dev/null || true

# The pure core, which an auditor reads, has every branch covered; then all the rest, without the cost of counting.
CORE := tcg tlog authorization governance appraisal gate lineage
unit:
	$(BIN)/pytest -n 2 --dist worksteal $(CORE:%=tests/%) $(CORE:%=--cov=attestd.%) --cov-branch --cov-fail-under=99
	$(BIN)/pytest -n 4 --dist worksteal $(CORE:%=--ignore=tests/%)

bench: setup
	@$(BIN)/python -m tests.bench

SECONDS ?= 600
fuzz: setup
	@$(BIN)/python -m tests.fuzz --seconds $(SECONDS) --jobs 2

# KILLS=10000 and RELEASES=10000 unless told; SEED=N repeats a run.
soak: setup
	@$(BIN)/python -m tests.soak

# A machine that really boots, with UEFI, IMA, a TPM and systemd (docs/vm.md); as root.
VM_PACKAGES := qemu-system-x86 qemu-utils ovmf mmdebstrap mtools dosfstools fdisk sbsigntool systemd-boot-efi binutils \
  openssl cpio kmod e2fsprogs passwd
vm-setup: setup
	@$(call require,$(VM_PACKAGES))

vm-test: vm-setup
	$(BIN)/pytest -m vm tests/vm

setup: .venv/.packages .venv/.installed

.venv/.packages: Makefile
	@$(call require,$(PACKAGES))
	@mkdir -p .venv && touch $@

.venv/.test-packages: Makefile
	@$(call require,$(TEST_PACKAGES))
	@mkdir -p .venv && touch $@

.venv/.installed: pyproject.toml .ci/constraints.txt systemd/entry.in .venv/.packages
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check -c .ci/constraints.txt pip
	$(BIN)/pip install -q --disable-pip-version-check -c .ci/constraints.txt -e '.[dev]'
	@# The commands without site, as an installed host has them: it would cost more than all that they import.
	@site=$$(cd .venv && echo lib/python3.*/site-packages) && for entry in $(ENTRIES); do \
	  sed -e 's|@LIB@|$(CURDIR)/.venv|' -e "s|@SITE@|$$site|" -e "s|@MODULE@|$${entry#*=}|" \
	    -e '/^sys.path/a sys.path.append("$(CURDIR)")' systemd/entry.in > .venv/bin/$${entry%=*} || exit; \
	done
	@touch $@

clean:
	rm -rf .venv

include systemd/install.mk
