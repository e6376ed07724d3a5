"""Many releases on a running host, and what agent and runner hold then."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import psutil

from attestd.tpm import capabilities
from attestd.tpm.device import Tpm
from attestd.tpm.embedded import EmbeddedTpm
from tests.faults.client import execute
from tests.host import Host

AT_ONCE = 4


@dataclass(frozen=True)
class Held:
    """What processes hold: descriptors, threads and children of agent and runner; bytes of memory of both."""

    fixed: tuple[int, ...]
    memory: int


class Releases:
    """One host; the processes are those that run when this is made."""

    def __init__(self, host: Host) -> None:
        self.host = host
        assert host.agent is not None
        self._processes = [psutil.Process(host.agent.pid), psutil.Process(host.runner_pid)]
        self._argv = ("/bin/true",)
        self._artifact = host.issue(*self._argv, ttl_s=86_000)

    def run(self, count: int) -> None:
        """Releases, some at a time; each must end with 0."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            statuses = list(pool.map(lambda _: self._ask(), range(count)))
        assert statuses == [0] * count

    def _ask(self) -> int | None:
        path = self.host.layout.agent_socket
        return execute(path, self._argv, cwd=self.host.work, artifact=self._artifact).status

    def measure(self) -> Held:
        """Measures once all has come to rest: connections closed, spare children made."""
        fixed, same = self._fixed(), 0
        for _ in range(300):
            time.sleep(0.2)
            last, fixed = fixed, self._fixed()
            same = same + 1 if fixed == last else 0
            if same == 4:
                break
        return Held(fixed, sum(process.memory_info().rss for process in self._processes))

    def _fixed(self) -> tuple[int, ...]:
        agent, runner = self._processes
        return (
            agent.num_fds(), agent.num_threads(), len(agent.children()),
            runner.num_fds(), runner.num_threads(), len(runner.children()),
        )  # fmt: skip

    def tpm_handles(self) -> tuple[int, int]:
        """Objects and sessions that the agent has loaded: it is killed, so that they can be counted."""
        self.host.kill_agent()
        with Tpm(EmbeddedTpm(self.host.layout.tpm).tcti) as tpm:
            objects = capabilities.handles(tpm._channel, capabilities.TRANSIENT)
            loaded = capabilities.handles(tpm._channel, capabilities.LOADED_SESSIONS)
            saved = capabilities.handles(tpm._channel, capabilities.SAVED_SESSIONS)
        return len(objects), len(loaded) + len(saved)
