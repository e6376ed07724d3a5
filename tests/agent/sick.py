"""A TPM with a failed self test, or with somebody who guesses: for tests of what becomes of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attestd.agent.health import Health
from attestd.agent.tpm_port import TpmPort
from attestd.tcg.nv import NvAttribute, nv_public
from attestd.tcg.pcr import PcrSelection
from attestd.tpm._commands import Cc, Hierarchy, build, password, sized, u16, u32
from attestd.tpm._tcti import Tcti
from attestd.tpm.device import Tpm
from attestd.tpm.owner import TpmOwner

GUESSED = 0x01800ABC
FAILURE = bytes.fromhex("80010000000a00000101")


class Sick:
    """A TPM that answers some commands in its own way."""

    def __init__(self, tcti: str) -> None:
        self._inner = Tcti(tcti)
        self.self_test: int | None = None

    @property
    def is_lost(self) -> bool:
        return self._inner.is_lost

    def exchange(self, command: bytes) -> bytes:
        code = int.from_bytes(command[6:10], "big")
        if self.self_test is not None and code == Cc.GET_TEST_RESULT:
            return bytes.fromhex("80010000001000000000" + "0000") + self.self_test.to_bytes(4, "big")
        if self.self_test == 0x101 and code != Cc.GET_CAPABILITY:  # Part 1, 12.2.1.4: failure mode
            return FAILURE
        return self._inner.exchange(command)

    def close(self) -> None:
        self._inner.close()


@contextmanager
def sick_tpm(tcti: str) -> Iterator[tuple[Sick, Health]]:
    """A TPM that can be made sick, and what the agent knows of its health."""
    transport = Sick(tcti)
    owner = TpmOwner(lambda: Tpm(transport))
    port = TpmPort(owner, host="ab" * 32, selection=PcrSelection("sha256", (0,)), deadline_s=5.0)
    try:
        yield transport, Health(port, directory=Path("/"), reserve=1)
    finally:
        owner.close()


def guess(tpm: Tpm, times: int) -> None:
    """What an attacker in group tss can do: fail authorizations of an object that counts them."""
    channel = tpm._channel
    public = nv_public(
        GUESSED, attributes=NvAttribute.AUTHREAD | NvAttribute.AUTHWRITE, auth_policy=b"", size=8
    )
    if tpm.nv_name(GUESSED) is None:
        params = sized(b"good") + sized(public)
        channel.run(Cc.NV_DEFINE_SPACE, handles=u32(Hierarchy.OWNER), auth=password(), params=params)
    write = build(Cc.NV_WRITE, handles=u32(GUESSED) * 2, auth=password(b"bad"), params=sized(b"x") + u16(0))
    for _ in range(times):
        channel.attempt(write)
