"""A TPM that is slow, hangs, is away, is reset, full, locked, or busy with others: denials, then service again."""

import asyncio
import random
import threading
import time
from collections.abc import Iterator

import pytest

from attestd.agent.sealing import Receipt
from attestd.paths import Configuration
from attestd.tpm._commands import Cc, build, password, sized, u16, u32
from tests.faults.inside import Inside, inside, released
from tests.host import Host

SIGNATURES = {Cc.SIGN, Cc.QUOTE}


@pytest.fixture
def stopped() -> Iterator[Host]:
    with Host.create() as host:
        yield host


def finish(host: Host) -> None:
    """The log verifies after all."""
    assert host.verify_log().size == len(host.entries())


def response(code: int) -> bytes:
    return bytes.fromhex("80010000000a") + code.to_bytes(4, "big")


def test_every_command_takes_200_ms(
    stopped: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Latency grows, throughput hardly: who waits shares a signature."""

    async def test() -> None:
        async with inside(stopped, monkeypatch) as agent:
            await agent.ask()

            def slow(_: int) -> None:
                time.sleep(0.2)

            agent.injector.before = slow
            batches = agent.batches()
            answers, seconds = await agent.ask_many(256)
            made = agent.batches() - batches
            agent.injector.before = lambda _: None
            released(answers)
            assert made <= 16, "3 where decisions take no time"
            assert 256 / seconds > 4
            with capsys.disabled():
                print(
                    f"\n[200 ms a command: {256 / seconds:.0f} releases/s, {made} batches, {seconds:.1f} s]"
                )

    asyncio.run(test())
    finish(stopped)


def test_every_signature_takes_200_ms(
    stopped: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def test() -> None:
        async with inside(stopped, monkeypatch) as agent:
            await agent.ask()

            def slow(code: int) -> None:
                if code in SIGNATURES:
                    time.sleep(0.2)

            agent.injector.before = slow
            answers, seconds = await agent.ask_many(512)
            released(answers)
            assert 512 / seconds > 10
            with capsys.disabled():
                print(f"\n[200 ms a signature: {512 / seconds:.0f} releases/s]")

    asyncio.run(test())
    finish(stopped)


def test_wedged_and_back(stopped: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """It hangs in the middle of a batch, for longer than the deadline: each request is denied, none hangs."""

    async def test() -> None:
        async with inside(stopped, monkeypatch, Configuration(tpm_deadline_s=1)) as agent:
            await agent.ask()
            threads, gate = threading.active_count(), threading.Event()

            def hang(code: int) -> None:
                if code == Cc.SIGN:
                    gate.wait(60)

            agent.injector.before = hang
            answers, _ = await agent.ask_many(64)
            assert set(answers) == {"TpmUnavailableError"}
            with monkeypatch.context() as patience:
                patience.setattr(agent.core.port, "_deadline_s", 60)
                answers, seconds = await agent.ask_many(64)
            assert not any(isinstance(answer, Receipt) for answer in answers)
            assert seconds < 30, "it is known by now"
            agent.injector.before = lambda _: None
            gate.set()
            await agent.until_served()
            assert threading.active_count() <= threads + 1
            released((await agent.ask_many(64))[0])

    asyncio.run(test())
    finish(stopped)


def test_gone_for_a_while(stopped: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else's TPM, which nobody here starts again: away, and then there after a reset."""
    stopped_tpm = stopped.layout.tpm

    async def test() -> None:
        from attestd.tpm.embedded import EmbeddedTpm

        embedded = EmbeddedTpm(stopped_tpm)
        embedded.start()
        async with inside(stopped, monkeypatch, Configuration(tpm=embedded.tcti, tpm_deadline_s=2)) as agent:
            released((await agent.ask_many(8))[0])
            embedded.kill()
            for _ in range(3):
                answers, seconds = await agent.ask_many(8)
                assert not any(isinstance(answer, Receipt) for answer in answers)
                assert seconds < 30
            embedded.start()
            await agent.until_served()
            released((await agent.ask_many(8))[0])
        embedded.stop()

    asyncio.run(test())
    finish(stopped)


def test_reset_with_the_connection_kept(stopped: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys are gone from the TPM, and nothing tells but its answers: they are loaded again."""
    startup = bytes.fromhex("80010000000c000001440000")
    done: list[int] = []

    async def test() -> None:
        async with inside(stopped, monkeypatch) as agent:
            released((await agent.ask_many(8))[0])

            def reset(_: int) -> None:
                if not done:
                    done.append(1)
                    agent.injector.raw(build(Cc.SHUTDOWN, params=u16(0)))
                    _control(agent, b"\0\0\0\x02\0\0\0\0")  # CMD_INIT
                    agent.injector.raw(startup)

            agent.injector.before = reset
            await agent.until_served()
            assert done
            released((await agent.ask_many(8))[0])

    asyncio.run(test())
    finish(stopped)


def _control(agent: Inside, command: bytes) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(str(agent.host.layout.tpm / "sock.ctrl"))
        sock.sendall(command)
        assert sock.recv(64)[:4] == bytes(4)


def test_out_of_session_slots(stopped: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user of a TPM without resource manager takes every session: denied, until they are free again."""
    taken: list[bytes] = []

    async def test() -> None:
        async with inside(stopped, monkeypatch) as agent:
            released((await agent.ask_many(8))[0])

            def take(_: int) -> None:
                if taken:
                    return
                nonce = u32(0x40000007) * 2
                session = build(
                    Cc.START_AUTH_SESSION,
                    handles=nonce,
                    params=sized(bytes(16)) + sized(b"") + b"\x01" + u16(0x10) + u16(0xB),
                )
                while (answer := agent.injector.raw(session))[6:10] == bytes(4):
                    taken.append(answer[10:14])

            agent.injector.before = take
            answers, _ = await agent.ask_many(8)
            assert len(taken) >= 3
            assert not any(isinstance(answer, Receipt) for answer in answers)

            def give(_: int) -> None:
                while taken:
                    agent.injector.raw(build(Cc.FLUSH_CONTEXT, params=taken.pop()))

            agent.injector.before = give
            await agent.until_served()
            released((await agent.ask_many(8))[0])

    asyncio.run(test())
    finish(stopped)


def test_out_of_object_slots(stopped: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user takes every object slot before our approval was verified: denied, until they are free again."""
    taken: list[bytes] = []

    async def test() -> None:
        async with inside(stopped, monkeypatch) as agent:
            key = agent.core.trust_directory.current().platforms["local"].approvals[0].root.public.raw
            load = build(Cc.LOAD_EXTERNAL, params=sized(b"") + sized(key) + u32(0x40000001))

            def take(_: int) -> None:
                while (answer := agent.injector.raw(load))[6:10] == bytes(4):
                    taken.append(answer[10:14])

            agent.injector.before = take
            answers, _ = await agent.ask_many(8)
            assert taken
            assert not any(isinstance(answer, Receipt) for answer in answers)

            def give(_: int) -> None:
                while taken:
                    agent.injector.raw(build(Cc.FLUSH_CONTEXT, params=taken.pop()))

            agent.injector.before = give
            await agent.until_served()
            released((await agent.ask_many(8))[0])
            # From here on nothing of ours needs another slot.
            agent.injector.before = take
            released((await agent.ask_many(8))[0])
            assert taken
            agent.injector.before = give
            released((await agent.ask_many(8))[0])

    asyncio.run(test())
    finish(stopped)


def test_lockout_does_not_stop_us(stopped: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others who guess wrong lock the TPM; our keys and indices are not subject to it (noDA)."""

    async def test() -> None:
        async with inside(stopped, monkeypatch) as agent:
            # TPM2_DictionaryAttackParameters: no tries at all, which is lockout at once.
            lock = build(
                0x13A, handles=u32(0x4000000A), auth=password(), params=u32(0) + u32(1000) + u32(1000)
            )  # type: ignore[arg-type]
            answers: list[bytes] = []

            def lock_once(_: int) -> None:
                if not answers:
                    answers.append(agent.injector.raw(lock))

            agent.injector.before = lock_once
            released((await agent.ask_many(8))[0])
            assert answers[0][6:10] == bytes(4)
            properties = await asyncio.wrap_future(agent.core.port.other(lambda tpm: tpm.properties()))
            assert properties.in_lockout
            released((await agent.ask_many(8))[0])

    asyncio.run(test())
    finish(stopped)


def test_pcr_extends_between_every_few_commands(
    stopped: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As IMA does at each exec, into a PCR that no policy selects: each one ends a policy session that is under way.

    By the count of our commands, not the clock: beside a slow machine's it would leave no session whole.
    """
    digest = u32(1) + u16(0xB) + bytes(32)
    extend = build(Cc.PCR_EXTEND, handles=u32(10), auth=password(), params=digest)

    async def test() -> None:
        async with inside(stopped, monkeypatch) as agent:
            await agent.ask()
            began, extends, again, chance = time.monotonic(), 0, 0, random.Random(7)  # noqa: S311

            def storm(code: int) -> None:
                nonlocal extends, again
                again += code == Cc.SIGN
                if chance.random() < 0.25:
                    agent.injector.raw(extend)
                    extends += 1

            agent.injector.before = storm
            batches = agent.batches()
            for _ in range(200):
                released([await agent.ask()])
            seconds = time.monotonic() - began
            agent.injector.before = lambda _: None
            assert agent.batches() - batches == 200
            assert again > 400  # it did disturb
            with capsys.disabled():
                print(
                    f"\n[{extends / seconds:.0f} extends/s: 200 of 200 releases, {again} attempts, {seconds:.1f} s]"
                )

    asyncio.run(test())
    finish(stopped)
