"""The machine's root file system: Debian packages, kernel modules, and attestd as `make install` installs it."""

import re
import shutil
import time
from functools import cache
from pathlib import Path
from typing import Final

from swtpm.vm.tools import CHECKOUT, VmError, cached, digest, run, working_directory

__all__ = ["base", "kernel", "kernel_versions", "root_image"]

_SUITE: Final = "bookworm"
_PACKAGES: Final = (
    "systemd", "systemd-sysv", "udev", "dbus", "kmod", "procps", "python3", "busybox-static", "tpm2-tools",
    "libtss2-esys-3.0.2-0", "libtss2-mu0", "libtss2-rc0", "libtss2-tctildr0", "libtss2-tcti-device0", "libtss2-fapi1",
)  # fmt: skip
_UNWANTED: Final = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*")
# What is installed: a change of any of it makes another image.
_INSTALLED: Final = (
    "attestd", "swtpm/__init__.py", "swtpm/daemon.py", "swtpm/provision.py", "systemd", "pyproject.toml",
    ".ci/constraints.txt", "README.md", "LICENSE",
)  # fmt: skip
_MODULES: Final = ("drivers/virtio", "drivers/block", "drivers/char", "fs/fat", "fs/nls", "fs/efivarfs")
_MASKED: Final = (
    "getty@tty1.service", "serial-getty@ttyS0.service", "apt-daily.timer", "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service", "fstrim.timer", "systemd-pstore.service",
    "systemd-tmpfiles-clean.timer", "systemd-hwdb-update.service", "systemd-journal-catalog-update.service",
    "ldconfig.service", "systemd-sysusers.service", "systemd-update-done.service", "systemd-update-utmp.service",
    "modprobe@configfs.service", "modprobe@dm_mod.service", "modprobe@drm.service", "modprobe@fuse.service",
    "modprobe@loop.service", "dev-hugepages.mount", "dev-mqueue.mount", "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount", "proc-sys-fs-binfmt_misc.automount", "systemd-logind.service", "dbus.service",
    "dbus.socket", "systemd-random-seed.service",
)  # fmt: skip
_SIZE: Final = "2G"
_KEPT_S: Final = 86400


def base() -> Path:
    """A tar file of Debian with what the machine needs. Takes 30 s, once."""

    def make(target: Path) -> None:
        run(
            "mmdebstrap", "--variant=minbase", "--mode=root", "--format=tar", f"--include={','.join(_PACKAGES)}",
            *(f"--dpkgopt=path-exclude={path}" for path in _UNWANTED), '--aptopt=Acquire::Languages "none"',
            _SUITE, target,
        )  # fmt: skip

    return cached(f"base-{digest(_SUITE, *_PACKAGES)}.tar", make)


@cache
def kernel_versions() -> tuple[str, str]:
    """The newest two kernels of Debian's cloud flavour, the newest first."""
    newest = re.search(r"Depends: linux-image-(\S+)", run("apt-cache", "depends", "linux-image-cloud-amd64"))
    if newest is None:
        raise VmError("no kernel: apt-cache knows no linux-image-cloud-amd64; apt-get update")
    release = newest[1].split("-", 1)[0]
    pattern = rf"^linux-image-({re.escape(release)}-(\d+)-cloud-amd64) "
    named = re.findall(pattern, run("apt-cache", "search", "^linux-image-"), re.MULTILINE)
    earlier = [name for name, _ in sorted(named, key=lambda found: int(found[1])) if name != newest[1]]
    if not earlier:
        raise VmError(f"only one kernel: apt-cache knows none of {release} but {newest[1]}; apt-get update")
    return newest[1], earlier[-1]


def kernel(version: str) -> Path:
    """A directory with that kernel as its package has it: `boot/`, `lib/modules/`."""

    def make(target: Path) -> None:
        with working_directory() as work:
            # apt would become a user who may not write here, and complain.
            options = ("-q", "-o", "APT::Sandbox::User=root")
            run("apt-get", "download", *options, f"linux-image-{version}", cwd=work)
            run("dpkg-deb", "-x", next(work.glob("*.deb")), target)

    return cached(f"kernel-{version}", make)


def root_image() -> Path:
    """A file with the root file system (ext4). Takes 20 s for each state of the checkout."""
    here = Path(__file__).parent
    inputs = [CHECKOUT / name for name in _INSTALLED]
    inputs += [here / name for name in ("root.py", "guest.py", "guest.service")]
    key = digest(base().name, *kernel_versions(), _SIZE, *inputs)

    def make(target: Path) -> None:
        with working_directory() as work:
            root = work / "root"
            root.mkdir()
            run("tar", "-xf", base(), "-C", root)
            for version in kernel_versions():
                _add_modules(root, version)
            _install(root)
            _configure(root, here)
            run("mke2fs", "-q", "-t", "ext4", "-L", "root", "-d", root, target, _SIZE)

    image = cached(f"root-{key}.ext4", make)
    image.touch()
    for old in image.parent.glob("root-*.ext4"):
        if old.stat().st_mtime < time.time() - _KEPT_S:
            old.unlink()
    return image


def _add_modules(root: Path, version: str) -> None:
    source = kernel(version) / "lib" / "modules" / version
    target = root / "lib" / "modules" / version
    for part in _MODULES:
        shutil.copytree(source / "kernel" / part, target / "kernel" / part)
    for path in source.glob("modules.*"):
        shutil.copy(path, target)
    run("depmod", "-b", root, version)


def _install(root: Path) -> None:
    # Without the flags of a make that we may be called by.
    run("make", "-s", "install", f"DESTDIR={root}", cwd=CHECKOUT, env={"MAKEFLAGS": "", "MAKELEVEL": ""})
    run("systemd-sysusers", f"--root={root}", "attestd.conf")
    run("systemd-tmpfiles", f"--root={root}", "--create", "attestd.conf")


def _configure(root: Path, here: Path) -> None:
    etc = root / "etc"
    (etc / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (etc / "hostname").write_text("machine\n")
    (etc / "fstab").write_text("")
    # It may be as slow as the host is busy.
    (etc / "systemd" / "system.conf.d").mkdir()
    (etc / "systemd" / "system.conf.d" / "patience.conf").write_text(
        "[Manager]\nDefaultTimeoutStartSec=600s\nDefaultDeviceTimeoutSec=600s\n"
    )
    for unit in _MASKED:
        (etc / "systemd" / "system" / unit).symlink_to("/dev/null")
    library = root / "usr" / "lib" / "attestd-vm"
    library.mkdir()
    shutil.copy(here / "guest.py", library)
    shutil.copy(here / "guest.service", root / "usr" / "lib" / "systemd" / "system" / "attestd-vm.service")
    run("systemctl", f"--root={root}", "enable", "attestd-vm.service")
    run("useradd", "--root", root, "--create-home", "--uid", "1000", "alice")
