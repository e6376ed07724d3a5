# make install [PREFIX=/usr] [DESTDIR=] [CONTROLLER=1]: the command, the units, the users, the directories; with CONTROLLER
# what a mesh controller needs besides. Starts and enables nothing.
# make uninstall: removes exactly that; state, configuration, trust, keys and the user that they belong to stay.
PREFIX ?= /usr
LIB := $(PREFIX)/lib/attestd
NEW := "$(DESTDIR)$(LIB).new"
ROOT := "$(DESTDIR)$(PREFIX)"
UNITS := attestd.service attestd.socket attestd-runner.service attestd-runner.socket attestd-controller.service
CONTROLLER ?=
ENTRIES := attestd=attestd.__main__ attestd-runner=attestd.runner.__main__
# Debian's own pip, so that what is installed has none.
PIP = $(PYTHON) $(lastword $(wildcard /usr/share/python-wheels/pip-*.whl))/pip

.PHONY: install uninstall service-test

# Built beside what is there, then swapped: a service that runs is not left without its modules for long.
install:
	@$(call require,$(NEEDED))
	rm -rf $(NEW)
	umask 022 && $(PYTHON) -m venv --without-pip $(NEW)
	umask 022 && $(PIP) --python $(NEW)/bin/python3 install -q --disable-pip-version-check --root-user-action ignore \
	  -c .ci/constraints.txt '.$(if $(CONTROLLER),[controller])'
	find $(NEW)/bin -mindepth 1 ! -name 'python*' -delete
	umask 022 && site=$$(cd $(NEW) && echo lib/python3.*/site-packages) && for entry in $(ENTRIES); do \
	  sed -e 's|@LIB@|$(LIB)|' -e "s|@SITE@|$$site|" -e "s|@MODULE@|$${entry#*=}|" systemd/entry.in \
	    > $(NEW)/bin/$${entry%=*} && chmod 755 $(NEW)/bin/$${entry%=*} || exit; \
	done
	rm -rf "$(DESTDIR)$(LIB)" && mv $(NEW) "$(DESTDIR)$(LIB)"
	install -d $(ROOT)/bin $(ROOT)/lib/systemd/system $(ROOT)/lib/sysusers.d $(ROOT)/lib/tmpfiles.d
	ln -sfn ../lib/attestd/bin/attestd $(ROOT)/bin/attestd
	umask 022 && for unit in $(UNITS); do \
	  sed 's|/usr/lib/attestd/|$(LIB)/|' systemd/$$unit > $(ROOT)/lib/systemd/system/$$unit || exit; \
	done
	install -m 644 systemd/attestd.sysusers.conf $(ROOT)/lib/sysusers.d/attestd.conf
	install -m 644 systemd/attestd.tmpfiles.conf $(ROOT)/lib/tmpfiles.d/attestd.conf
ifeq ($(DESTDIR),)
	systemd-sysusers attestd.conf
	systemd-tmpfiles --create attestd.conf
	if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
endif

uninstall:
ifeq ($(DESTDIR),)
	if [ -d /run/systemd/system ]; then systemctl disable --now $(UNITS); fi
endif
	rm -rf "$(DESTDIR)$(LIB)"
	for unit in $(UNITS); do rm -f $(ROOT)/lib/systemd/system/$$unit; done
	rm -f $(ROOT)/bin/attestd $(ROOT)/lib/sysusers.d/attestd.conf $(ROOT)/lib/tmpfiles.d/attestd.conf
ifeq ($(DESTDIR),)
	if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
endif

# The whole of it under a real systemd, in namespaces, as root: docs/operations.md, "Install as a service".
service-test: setup
	@$(BIN)/python -m tests.systemd.boot
