"""The machine: QEMU and swtpm as two processes of ours, and what can be done to them.

    with Machine.create(directory) as machine:
        machine.boot(Boot())
        machine.run("id -u")

Whatever happens, both processes end with it: by their process ids, never by name.
"""

import contextlib
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from swtpm.provision import provision
from swtpm.vm.firmware import CODE, Boot, esp, variables
from swtpm.vm.port import Command, Port, Result
from swtpm.vm.qmp import Monitor
from swtpm.vm.root import root_image
from swtpm.vm.tools import VmError, run, tool

__all__ = ["Machine"]

_BOOT_S: Final = 600.0
_END_S: Final = 300.0
_SOCKET_S: Final = 60.0
# The firmware, of an image that it does not start; it goes on to ask a person who is not there.
_REFUSED: Final = "BdsDxe: failed to"


@dataclass
class Machine:
    """A machine with a disk, a TPM and UEFI variables of its own.

    Attributes:
        directory: Holds all of it; a short path, for it holds sockets.
        booted: What it boots, or booted last.
        snapshots: What it had booted when each of them was taken.
    """

    directory: Path
    booted: Boot = field(default_factory=Boot)
    snapshots: dict[str, Boot] = field(default_factory=dict)
    _processes: "list[subprocess.Popen[bytes]]" = field(default_factory=list)
    _port: Port | None = None

    @classmethod
    def create(cls, directory: Path) -> "Machine":
        """Makes its disk (an overlay of the image) and its TPM."""
        machine = cls(directory)
        run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", root_image(), machine._disk)
        provision(directory / "tpm")
        return machine

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()

    # -- power -----------------------------------------------------------------------------------------------------

    def boot(self, boot: Boot) -> None:
        """Switches it on; returns when the machine takes commands.

        The firmware has variables of their own for each mode of Secure Boot: those of the other stay as they are, with
        the snapshots that are in them.

        Raises:
            VmError: It does not boot: the console's last lines are in the message.
        """
        self.booted = boot
        if not self._variables.exists():
            raw = variables(secure_boot=boot.secure_boot)
            run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, self._variables)
        esp(boot, self._esp)
        self._start()
        self._connect(_BOOT_S)

    def shutdown(self) -> None:
        """Switches it off in order, as `systemctl poweroff` does."""
        self.start("systemctl poweroff")
        try:
            for process in self._processes:
                process.wait(_END_S)
        except subprocess.TimeoutExpired as error:
            raise VmError(f"it does not switch off:\n{self.console()}") from error
        finally:
            self.cut()

    def reboot(self, boot: Boot | None = None) -> None:
        """Switches it off in order, and on again, with something else to boot if told."""
        self.shutdown()
        self.boot(boot or self.booted)

    def cut(self) -> None:
        """Cuts the power: nothing in it gets to do anything more, and its TPM gets no TPM2_Shutdown."""
        # swtpm first: later versions send one when their QEMU is gone.
        for process in self._processes:
            process.send_signal(signal.SIGKILL)
        for process in self._processes:
            process.wait()
        self._processes = []
        if self._port is not None:
            self._port.close()
            self._port = None

    # -- commands --------------------------------------------------------------------------------------------------

    def start(self, script: str, *, stdin: bytes = b"", uid: int = 0) -> Command:
        """Starts a script in it; the command tells what it prints while it runs."""
        if self._port is None:
            raise VmError("it is switched off")
        return self._port.start(["/bin/bash", "-c", script], stdin=stdin, uid=uid)

    def run(
        self, script: str, *, stdin: bytes = b"", uid: int = 0, status: int | None = 0, timeout_s: float = 300
    ) -> Result:
        """Runs a script in it to its end, as root unless told.

        Raises:
            VmError: It ended with another status than the expected one (None: any will do), or takes too long.
        """
        result = self.start(script, stdin=stdin, uid=uid).wait(timeout_s)
        if status is not None and result.status != status:
            raise VmError(
                f"expected status {status}, found {result.status}: {script}\n{result.out}{result.err}"
            )
        return result

    def read(self, path: str) -> bytes:
        """A file's contents."""
        return self.run(f"cat {path}").stdout

    def until(self, script: str, timeout_s: float = 300) -> None:
        """Waits in the machine until a script succeeds."""
        self.run(f"until {script}; do sleep 0.2; done", timeout_s=timeout_s)

    def console(self) -> str:
        """The last lines of its serial console."""
        with contextlib.suppress(OSError):
            return "\n".join(self._console.read_text(errors="replace").splitlines()[-40:])
        return ""

    # -- snapshots -------------------------------------------------------------------------------------------------

    def snapshot(self, name: str) -> None:
        """Keeps everything: memory, disk, variables, TPM. Takes half a second."""
        self._monitor("savevm " + name)
        self.snapshots[name] = self.booted

    def restore(self, name: str) -> None:
        """Goes back to a snapshot, whatever happened since. The TPM goes back as well, and its clock."""
        self.cut()
        self.booted = self.snapshots[name]
        esp(self.booted, self._esp)
        self._start("-loadvm", name)
        self._connect(_SOCKET_S)

    def copy(self, directory: Path) -> "Machine":
        """Another machine with the same disk, TPM and snapshots, of one that is switched off."""
        shutil.copytree(
            self.directory, directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.sock")
        )
        return Machine(directory, self.booted, dict(self.snapshots))

    def _monitor(self, command: str) -> None:
        with Monitor(self.directory / "qmp.sock") as monitor:
            monitor.human(command)

    # -- processes -------------------------------------------------------------------------------------------------

    def _start(self, *options: str) -> None:
        for name in ("tpm.sock", "qmp.sock", "port.sock"):
            (self.directory / name).unlink(missing_ok=True)
        tpm = self.directory / "tpm.sock"
        self._spawn(
            "swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self.directory / 'tpm' / 'state'}",
            "--ctrl", f"type=unixio,path={tpm}", "--terminate",
            "--log", f"file={self.directory / 'swtpm.log'},level=1",
        )  # fmt: skip
        self._wait_for(tpm)
        self._spawn(*_qemu(self.directory, self._variables), *options)

    def _spawn(self, name: str, *arguments: str) -> None:
        with (self.directory / f"{name}.err").open("wb") as file:
            process = subprocess.Popen(
                [tool(name), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                cwd=self.directory,
            )
        self._processes.append(process)

    def _connect(self, timeout_s: float) -> None:
        path = self.directory / "port.sock"
        self._wait_for(path)
        self._port = Port(path)
        deadline = time.monotonic() + timeout_s
        while not self._port.answers():
            ended = [process for process in self._processes if process.poll() is not None]
            if ended or _REFUSED in self.console() or time.monotonic() > deadline:
                raise VmError(f"it does not boot: {self._complaints()}\n{self.console()}")

    def _wait_for(self, path: Path) -> None:
        deadline = time.monotonic() + _SOCKET_S
        while not path.exists():
            if self._processes[-1].poll() is not None or time.monotonic() > deadline:
                raise VmError(f"{path.name} does not appear: {self._complaints()}")
            time.sleep(0.01)

    def _complaints(self) -> str:
        return " ".join(path.read_text(errors="replace") for path in self.directory.glob("*.err")).strip()

    @property
    def _disk(self) -> Path:
        return self.directory / "root.qcow2"

    @property
    def _variables(self) -> Path:
        return self.directory / ("vars.qcow2" if self.booted.secure_boot else "vars-open.qcow2")

    @property
    def _esp(self) -> Path:
        return self.directory / "esp.raw"

    @property
    def _console(self) -> Path:
        return self.directory / "console.log"


def _qemu(directory: Path, variables: Path) -> Iterator[str]:
    """QEMU's command line: every disk that is written to is one that it can put into a snapshot."""
    yield "qemu-system-x86_64"
    options = [
        ("machine", "q35,smm=off"), ("accel", "tcg,thread=multi"), ("cpu", "max"), ("smp", "2"), ("m", "1024"),
        ("display", "none"), ("vga", "none"), ("net", "none"), ("rtc", "base=utc"),
        ("drive", f"if=pflash,format=raw,unit=0,readonly=on,file={CODE}"),
        ("drive", f"if=pflash,format=qcow2,unit=1,file={variables}"),
        ("chardev", f"socket,id=tpm,path={directory}/tpm.sock"),
        ("tpmdev", "emulator,id=tpm0,chardev=tpm"),
        ("device", "tpm-crb,tpmdev=tpm0"),
        ("drive", f"if=none,id=esp,format=raw,readonly=on,file={directory}/esp.raw"),
        ("device", "virtio-blk-pci,drive=esp,bootindex=0"),
        ("drive", f"if=none,id=root,format=qcow2,discard=unmap,file={directory}/root.qcow2"),
        ("device", "virtio-blk-pci,drive=root"),
        ("device", "virtio-serial-pci"),
        # It waits for us, so that the machine never sees its port without anybody at the other end.
        ("chardev", f"socket,id=port,path={directory}/port.sock,server=on,wait=on"),
        ("device", "virtserialport,chardev=port,name=attestd.vm"),
        ("serial", f"file:{directory}/console.log"),
        ("qmp", f"unix:{directory}/qmp.sock,server=on,wait=off"),
    ]  # fmt: skip
    yield "-nodefaults"
    yield "-no-user-config"
    # What panics, ends: nobody would wait for it.
    yield "-no-reboot"
    for name, value in options:
        yield from (f"-{name}", value)
