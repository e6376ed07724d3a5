"""What the firmware starts: keys of its own, UEFI variables, initial RAM disk, unified kernel image, ESP."""

import re
import shutil
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from swtpm.vm.root import base, kernel, kernel_versions
from swtpm.vm.tools import VmError, cached, digest, run, tool, working_directory

__all__ = ["CODE", "Boot", "esp", "variables"]

CODE: Final = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
_VARIABLES: Final = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
_STUB: Final = Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
_INITRD: Final = Path(__file__).parent / "initrd.sh"
_OWNER: Final = uuid.UUID("8d0a9a32-6d2c-4f0e-9d0b-5c0de7a77e57")
_DISK: Final = uuid.UUID("1d4c3b2a-0001-4000-8000-000000000001")
_MODULES: Final = (
    "virtio/virtio", "virtio/virtio_ring", "virtio/virtio_pci_legacy_dev", "virtio/virtio_pci_modern_dev",
    "virtio/virtio_pci", "block/virtio_blk",
)  # fmt: skip
_ALIGNMENT: Final = 0x1000


@dataclass(frozen=True, slots=True)
class Boot:
    """What the machine boots.

    Attributes:
        cmdline: Kernel command line.
        kernel: 0 for Debian's newest kernel, 1 for the one before it.
        secure_boot: Whether the firmware verifies what it starts, by keys of our own.
        signed: Whether the kernel image is signed by one of these.
    """

    cmdline: str = "console=ttyS0 quiet ima_policy=tcb mitigations=off apparmor=0 audit=0 panic=-1"
    kernel: int = 0
    secure_boot: bool = True
    signed: bool = True

    @property
    def kernel_version(self) -> str:
        """As `uname -r` says it in the machine."""
        return kernel_versions()[self.kernel]


def keys() -> Path:
    """A directory with PK, KEK and db: self-signed certificates (.pem) and their keys (.key)."""

    def make(target: Path) -> None:
        target.mkdir()
        for name in ("PK", "KEK", "db"):
            run(
                "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650", "-sha256", "-subj",
                f"/CN=attestd test {name}", "-keyout", target / f"{name}.key", "-out", target / f"{name}.pem",
            )  # fmt: skip

    return cached("keys", make)


def variables(*, secure_boot: bool) -> Path:
    """A UEFI variable store with our keys enrolled, raw."""

    def make(target: Path) -> None:
        owner, key = str(_OWNER), keys()
        run(
            sys.executable, "-m", "virt.firmware.vars", "-i", _VARIABLES, "-o", target, "--set-pk", owner, key / "PK.pem",
            "--add-kek", owner, key / "KEK.pem", "--add-db", owner, key / "db.pem",
            *(["--secure-boot"] if secure_boot else ["--set-false", "SecureBootEnable"]),
            env={"PYTHONPATH": str(_tools())},
        )  # fmt: skip

    made_of = digest(_VARIABLES, keys() / "PK.pem", keys() / "KEK.pem", keys() / "db.pem")
    return cached(f"vars-{'sb' if secure_boot else 'nosb'}-{made_of}.fd", make)


def _tools() -> Path:
    """virt-firmware, apart from what attestd itself is made of."""
    requirements = Path(__file__).parent / "requirements.txt"

    def make(target: Path) -> None:
        pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        run(*pip, "--target", target, "-r", requirements)

    return cached(f"tools-{digest(requirements)}", make)


def initrd(version: str) -> Path:
    """The initial RAM disk of a kernel (cpio)."""

    def make(target: Path) -> None:
        with working_directory() as work:
            tree = work / "tree"
            for name in ("bin", "dev", "modules", "root"):
                (tree / name).mkdir(parents=True)
            run("tar", "-xf", base(), "-C", work, "./usr/bin/busybox")
            shutil.copy(work / "usr" / "bin" / "busybox", tree / "bin")
            shutil.copy(_INITRD, tree / "init")
            (tree / "init").chmod(0o755)
            modules = kernel(version) / "lib" / "modules" / version / "kernel" / "drivers"
            for name in _MODULES:
                shutil.copy(modules / f"{name}.ko", tree / "modules")
            names = "\n".join(sorted(str(path.relative_to(tree)) for path in tree.rglob("*")))
            with target.open("wb") as file:
                subprocess.run(
                    [tool("cpio"), "--quiet", "--reproducible", "-o", "-H", "newc", "-R", "0:0"],
                    input=names.encode(), stdout=file, cwd=tree, check=True,
                )  # fmt: skip

    return cached(f"initrd-{version}-{digest(_INITRD, base().name, *_MODULES)}.cpio", make)


def uki(boot: Boot) -> Path:
    """A unified kernel image: systemd's stub with command line, kernel and initial RAM disk as sections."""
    version = boot.kernel_version
    image = kernel(version) / "boot" / f"vmlinuz-{version}"
    ram_disk = initrd(version)
    made_of = digest(_STUB, version, ram_disk.name, boot.cmdline, str(boot.signed), keys() / "db.pem")

    def make(target: Path) -> None:
        with working_directory() as work:
            texts = {".osrel": "ID=debian\nVERSION_ID=12\n", ".uname": version, ".cmdline": boot.cmdline}
            sections = [(name, work / name) for name in texts]
            for name, text in texts.items():
                (work / name).write_text(text)
            sections += [(".initrd", ram_disk), (".linux", image)]
            unsigned = work / "unsigned.efi"
            _add_sections(sections, unsigned)
            if boot.signed:
                key = keys()
                run("sbsign", "--key", key / "db.key", "--cert", key / "db.pem", "--output", target, unsigned)
            else:
                unsigned.rename(target)

    return cached(f"uki-{version}-{made_of}.efi", make)


def _add_sections(sections: list[tuple[str, Path]], target: Path) -> None:
    """Each behind the stub's last one: sections that overlap are loaded over each other, and nobody says so."""
    found = re.findall(r"^ +\d+ \S+ +([0-9a-f]+)  ([0-9a-f]+)", run("objdump", "-h", _STUB), re.MULTILINE)
    if not found:
        raise VmError(f"{_STUB}: objdump shows no sections")
    address = max(int(start, 16) + int(size, 16) for size, start in found)
    options: list[str | Path] = []
    for name, file in sections:
        address = -(-address // _ALIGNMENT) * _ALIGNMENT
        options += ["--add-section", f"{name}={file}", "--change-section-vma", f"{name}={address:#x}"]
        address += file.stat().st_size
    run("objcopy", *options, _STUB, target)


def esp(boot: Boot, target: Path) -> None:
    """Writes a GPT disk with the EFI system partition that boots this."""
    image = uki(boot)
    with target.open("wb") as file:
        file.truncate(64 << 20)
    layout = target.with_suffix(".layout")
    layout.write_text(
        f"label: gpt\nlabel-id: {_DISK}\nstart=1MiB, size=62MiB, type=uefi, uuid={_OWNER}, name=esp\n"
    )
    with layout.open() as file:
        subprocess.run([tool("sfdisk"), "-q", target], stdin=file, check=True, capture_output=True)
    layout.unlink()
    run("mkfs.fat", "-F", "16", "-i", "a77e57d0", "--offset", "2048", target, str(62 << 10))
    place = f"{target}@@1M"
    run("mmd", "-i", place, "::/EFI", "::/EFI/BOOT")
    run("mcopy", "-i", place, image, "::/EFI/BOOT/BOOTX64.EFI")
