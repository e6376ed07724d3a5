"""`make soak`: what CI does briefly, for as long as it takes. KILLS (10,000) kills, RELEASES (10,000) releases."""

import os
import secrets
import sys
import time

from tests.faults.releases import Releases
from tests.faults.storm import SealingStorm, Storm
from tests.host import Host

KILLS = int(os.environ.get("KILLS", "10000"))
RELEASES = int(os.environ.get("RELEASES", "10000"))
SEED = int(os.environ.get("SEED", str(secrets.randbelow(1 << 32))))
A_HOST = 500  # kills of one host, before a fresh one


def releases() -> None:
    with Host.create() as host:
        work = Releases(host.start())
        work.run(200)
        before, began = work.measure(), time.monotonic()
        work.run(RELEASES)
        rate = RELEASES / (time.monotonic() - began)
        after = work.measure()
        assert after.fixed == before.fixed, (before, after)
        grown = after.memory - before.memory
        assert grown < (16 << 20), f"{grown} bytes more"
        assert work.tpm_handles() == (2, 0)
        host.start()
        host.wait_settled()
        host.require_sound()
        print(f"{RELEASES} releases, {rate:.0f}/s: nothing leaked, {grown >> 10} KiB more", flush=True)


def kills() -> None:
    done = 0
    while done < KILLS:
        count, seed = min(A_HOST, KILLS - done), SEED + done
        with Host.create() as host, Storm(host, seed=seed) as storm:
            for start in range(0, count // 2, 50):
                storm.kill(min(50, count // 2 - start))
                storm.settle()
            storm.end_clients()
            storm.require_sound()
            print(f"seed {seed}: {dict(storm.kills)} killed, {storm.runs} commands ran", flush=True)
        with Host.create() as host, SealingStorm(host, seed=seed) as sealing:
            sealing.kill(count - count // 2)
            sealing.require_sound()
            print(
                f"seed {seed}: sealing killed {sealing.kills} times, {sealing.released} released", flush=True
            )
        done += count


def main() -> int:
    releases()
    kills()
    print(f"{KILLS} kills: nothing ran unrecorded, nothing recorded is lost, every log verifies")
    return 0


if __name__ == "__main__":
    sys.exit(main())
