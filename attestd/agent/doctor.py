"""What `attestd doctor` looks at: the agent's own word, and what can be seen without it."""

import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from attestd.agent.ask import AgentSocket
from attestd.agent.findings import Examined, of_record, of_status, record_fault, room
from attestd.agent.governance import sealed_floor
from attestd.agent.hidden import find_hidden_runs
from attestd.agent.platform_state import quote_now
from attestd.agent.records import open_own_log
from attestd.appraisal.quote import appraise_quote
from attestd.audit.offline import log_keys
from attestd.distribution.local import TrustDirectory, load_own_trust
from attestd.distribution.pkcs8 import is_encrypted
from attestd.errors import AgentError, AttestdError
from attestd.governance.floor import Floor
from attestd.paths import Layout, load_configuration
from attestd.plain import counted
from attestd.tlog.note import parse_note
from attestd.where import MAX_SOCKET_PATH_BYTES

__all__ = ["examine"]

_START: Final = "attestd serve starts it (as a service: systemctl start attestd)"


def examine(layout: Layout, agent: AgentSocket) -> list[Examined]:
    """Looks at everything that can be looked at by this user, whether the agent runs or not.

    Args:
        layout: The installation.
        agent: Its agent.

    Returns:
        What was found; those with a remedy are the findings.
    """
    if not os.path.exists(layout.trust) and not os.path.exists(layout.agent):
        where = layout.trust.parent
        return [
            Examined("installation", f"nothing is initialised at {where}", "attestd init, then attestd serve")
        ]
    found: list[Examined] = []
    status: Mapping[str, Any] | None = None
    try:
        status = agent.ask("status")
    except AgentError as error:
        cause = error.__cause__
        words = (
            f"does not answer at {agent.path}: {cause.strerror}" if isinstance(cause, OSError) else str(error)
        )
        found.append(Examined("agent", words, _START))
    except AttestdError as error:
        found.append(Examined("agent", str(error), "see the line itself"))
    if status is not None:
        found += _told(status)
        host = status.get("agent", {}).get("host", "")
        found += _guarded("platform", lambda: _platforms(layout, agent, host))
    found += _guarded("trust", lambda: _trust(layout, is_told=_has_no_record(status)))
    found += _guarded("log", lambda: _log(layout, verified_by_agent=status is not None))
    found += _guarded("runs", lambda: _runs(layout))
    found += _guarded("files", lambda: _files(layout))
    found += _guarded("authority keys", lambda: _authority_keys(layout))
    return found


def _told(status: Mapping[str, Any]) -> list[Examined]:
    try:
        return list(of_status(status, now=datetime.now(UTC)))
    except (KeyError, TypeError):  # in the middle of an upgrade
        return [
            Examined(
                "agent",
                "what it tells is not what an agent of this version tells",
                "restart it: attestd serve",
            )
        ]


def _guarded(area: str, look: Callable[[], Iterator[Examined]]) -> list[Examined]:
    """What can be seen from outside: where this user may not look, that is all there is to say."""
    try:
        return list(look())
    except AttestdError as error:
        cause = error.__cause__
        if isinstance(cause, PermissionError):
            return []
        return [Examined(area, str(error), _REMEDIES[area])]
    except PermissionError:
        return []
    except OSError as error:
        return [Examined(area, f"{error.filename}: {error.strerror}", _REMEDIES[area])]


_REMEDIES: Final = {
    "trust": "publish it again (attestd governance publish), or restore root.json from where this host was given it",
    "log": "attestd audit verify says more; keep the directory as evidence before you change anything",
    "platform": "boot an approved state, or approve this one: attestd platform approve",
    "runs": "the runner's journal says what is wrong with its record",
    "files": "attestd init makes what is missing",
    "authority keys": "look at the file: only root has a place there",
}


def _platforms(layout: Layout, agent: AgentSocket, host: str) -> Iterator[Examined]:
    """By a quote of this moment: the agent's evidence is some seconds old."""
    trust = load_own_trust(layout)
    if trust.hosts.get(host) is None:
        return  # That is told elsewhere; nobody knows whose a quote is.
    for name, policy in trust.platforms.items():
        verified = quote_now(name, trust=trust, agent=agent)
        found = appraise_quote(
            verified.quote,
            policy=policy,
            reference=policy.reference(),
            values=verified.values,
            epoch=trust.revocations.epoch,
            at=datetime.now(UTC),
        )
        if found.approval is not None:
            yield Examined(f"platform {name}", f"version {policy.version}: in an approved state")
        else:
            yield Examined(f"platform {name}", "; ".join(found.findings), _REMEDIES["platform"])


def _trust(layout: Layout, *, is_told: bool) -> Iterator[Examined]:
    """By what is on disk, where a running agent goes by what it has read; `is_told`: it has told that it has no record."""
    host, floor = _sealed(layout)
    trust = TrustDirectory(
        layout.trust_source(load_configuration(layout.configuration, os.environ)), floor=floor
    ).current()
    yield Examined("trust directory", f"{layout.trust} verifies, governance version {trust.version}")
    if host is not None and trust.hosts.get(host) is None and not is_told:
        yield of_record(None, record_fault(trust, host), version=trust.version, now=datetime.now(UTC))
    for name, policy in trust.platforms.items():
        if not any(trust.revocations.epoch <= min(old.epoch, old.max_epoch) for old in policy.approvals):
            yield Examined(
                f"platform {name}",
                f"version {policy.version} approves no state at epoch {trust.revocations.epoch}",
                "approve the state of this host: attestd platform approve",
            )


def _has_no_record(status: Mapping[str, Any] | None) -> bool:
    governance = {} if status is None else status.get("governance", {})
    return governance.get("host_record_until", "") is None


def _sealed(layout: Layout) -> tuple[str | None, Floor | None]:
    """What the log tells: which host this is, and what was seen; where this user may look."""
    if not os.access(layout.log, os.R_OK, effective_ids=True):
        return None, None
    with open_own_log(layout) as store:
        return store.host_id, sealed_floor(store)


def _log(layout: Layout, *, verified_by_agent: bool) -> Iterator[Examined]:
    if verified_by_agent:
        return
    if os.path.exists(layout.log) and not os.access(layout.log, os.R_OK, effective_ids=True):
        return  # Not for this user to look at.
    reserve = load_configuration(layout.configuration, os.environ).disk_reserve_mb << 20
    yield room(shutil.disk_usage(layout.agent).free, reserve)
    if not layout.log.exists():
        yield Examined("log", f"{layout.log} does not exist", "initialise this host: attestd init")
        return
    with open_own_log(layout) as store:
        store.tail()
        last = store.last_checkpoint()
        words = "the last checkpoint's signatures verify"
        if last is not None:
            note, trust = parse_note(last.note), load_own_trust(layout)
            if trust.records(store.host_id):
                log_keys(store.origin, trust, last=note).verify(note)
            else:
                words = (
                    "the last checkpoint's signatures are not verified, for no record of this host is usable"
                )
        yield Examined("log", f"{counted(store.size, 'entry')}, {words}")


def _runs(layout: Layout) -> Iterator[Examined]:
    if not (layout.runner / "runner.db").exists() or not layout.log.exists():
        return
    count, hidden = find_hidden_runs(layout)
    if hidden:
        last = max(hidden, key=lambda item: item.time)
        yield Examined(
            "runs",
            f"{counted(len(hidden), 'command')} ran that the log does not tell of, the last at {last.time} by decision {last.leaf}",
            "the agent was broken into: take the host out of service, keep runner.db and the log as evidence, and"
            " revoke its record",
        )
    else:
        yield Examined("runs", f"commands that ran: {count}; the log has the decision of each")


def _files(layout: Layout) -> Iterator[Examined]:
    for path in (layout.agent_socket, layout.runner_socket):
        if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
            yield Examined("files", f"socket path {path} is too long", "choose a shorter --state-dir")
    for path in (layout.keys, layout.authority, layout.runner):
        mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0
        if mode & 0o077:
            yield Examined("files", f"{path} has mode {mode:04o}: others can use it", f"chmod go-rwx {path}")
    for path in (layout.configuration, layout.keys, layout.host):
        if not path.exists():
            yield Examined(
                "files", f"{path} is missing", "attestd init makes it, if the host was never initialised"
            )


def _authority_keys(layout: Layout) -> Iterator[Examined]:
    """No finding: a host that signs unattended has no other way. Who keeps them should know."""
    if not os.path.exists(layout.authority):
        return
    clear = [
        path.name for path in sorted(layout.authority.glob("*.pem")) if not is_encrypted(path.read_bytes())
    ]
    if clear:
        yield Examined(
            "authority keys",
            f"{', '.join(clear)} in {layout.authority} are not encrypted: root here, and who owns them, can sign"
            " (attestd authority protect encrypts them)",
        )
