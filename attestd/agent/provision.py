"""`attestd init`: a host that stands alone, or one that joins a repository. Idempotent; never overwrites."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from attestd.account import Account, acting_as, agent_account
from attestd.agent.governance import first_seen
from attestd.agent.identity import is_record_of, selection_of
from attestd.agent.joining import Controllers, join
from attestd.agent.keystore import load_keys
from attestd.agent.provision_steps import HostSteps, make_directories, migrate_log, opened_tpm
from attestd.agent.selection import choose_pcrs, differences, require_log_of_this_boot
from attestd.agent.standalone import LocalAuthorities
from attestd.agent.tpm_access import EMBEDDED
from attestd.audit.store import LogStore
from attestd.distribution.local import load_trust
from attestd.distribution.mirror import METADATA, ROOT, TIMESTAMP
from attestd.distribution.signer import Authority
from attestd.errors import TpmError, UsageError, VerificationError
from attestd.governance.authorities import Authorities, parse_authorities
from attestd.governance.host import VerifiedHost, parse_host_record
from attestd.governance.issue import (
    approve_platform_key,
    approve_state,
    draft_authorities,
    draft_platform_policy,
    draft_revocations,
    sign_host_request,
)
from attestd.governance.policy_schema import DEFAULT_POLICY, EMPTY_ENTITIES, SCHEMA
from attestd.governance.succession import replace_host_record
from attestd.governance.trust import Trust
from attestd.paths import Configuration, Layout, load_configuration
from attestd.tcg.pcr import PcrSelection, selection_from_text
from attestd.tcg.public import host_id
from attestd.tpm.device import Tpm

__all__ = ["ChosenTpm", "Provisioned", "choose_tpm", "provision_joining", "provision_standalone"]

PLATFORM: Final = "local"
DEVICE: Final = "/dev/tpmrm0"
FIRST_EPOCH: Final = 1
# The root lets the platform key approve states for this many epochs; a bump that revokes only approvals is usual.
MAX_EPOCH: Final = 1_000_000


@dataclass(frozen=True)
class Provisioned:
    """What `init` made, or found.

    Attributes:
        fresh: Whether this call made it.
        notes: What a person should read.
        request: The host record that the enrollers are to sign; None: this host has one.
        record: The host record that they signed, to be published; None: it is, or is not signed.
    """

    fresh: bool
    host: str
    log_origin: str
    tier: str
    platform: str
    selection: PcrSelection
    notes: tuple[str, ...]
    request: Path | None = None
    record: Path | None = None
    ended: Path | None = None


@dataclass(frozen=True)
class ChosenTpm:
    """A TPM, as the configuration names it, and why it is not the host's own, if `auto` had to do without."""

    tpm: str
    fallback: str | None


def provision_standalone(
    layout: Layout, configuration: Configuration, *, pcrs: str | None, labels: Mapping[str, str]
) -> Provisioned:
    """Provisions a host that stands alone: it has authorities of its own, and their repository.

    Each step looks whether it was done: a run that was cut off is finished by the next. When all is done nothing is
    touched, least of all the TPM: the agent may be running. As a service, what is the agent's is made as the agent's
    user, which also shows that this user may use the TPM.

    Args:
        layout: Where.
        configuration: Which TPM.
        pcrs: The PCRs to approve, such as `0,2,4,7`; None: as the event log shows, or an embedded TPM's default.
        labels: For the host record.

    Raises:
        UsageError: As `choose_pcrs` and `require_log_of_this_boot`; other PCRs are approved already; a socket path is too
            long.
        TpmError: The TPM is not usable, or holds another installation's indices.
        StoreError: Files cannot be written.
    """
    layout.require_short_sockets()
    account = agent_account(layout)
    migrate_log(layout, account)
    if (found := _find_provisioned(layout, configuration, account)) is not None:
        _require_same(found, pcrs=pcrs)
        return found
    if configuration.governance_url:
        raise UsageError(
            f"this host joins {configuration.governance_url} ({layout.configuration}): finish that with attestd init"
            " --governance URL --root FILE"
        )
    choice = choose_pcrs(configuration, pcrs=pcrs)
    fresh = not layout.log.exists()
    make_directories(layout, account)
    with opened_tpm(layout, configuration) as owner:
        host_steps = HostSteps(layout, configuration, owner)
        values = host_steps.tpm(lambda tpm: tpm.read_pcrs(choice.selection))
        require_log_of_this_boot(choice, values)
        _Standalone(layout, configuration, host_steps).run(choice.selection, labels)
    trust = load_trust(layout.trust_source(configuration))
    host, log_origin, _ = _log_facts(layout, account)
    found = _provisioned(trust, host, log_origin, fresh=fresh)
    return replace(found, notes=(*found.notes, *choice.notes, *differences(choice, values)))


def provision_joining(
    layout: Layout,
    configuration: Configuration,
    *,
    root: bytes,
    epoch_key: Callable[[], Authority] | None,
    labels: Mapping[str, str],
    controllers: Controllers | None = None,
) -> Provisioned:
    """Provisions a host that others govern; see `join`.

    Raises:
        UsageError, AgentError, TpmError, StoreError, VerificationError, MalformedError: As `join`.
    """
    layout.require_short_sockets()
    account = agent_account(layout)
    migrate_log(layout, account)
    if (found := _find_provisioned(layout, configuration, account)) is not None:
        return found
    fresh = not layout.log.exists()
    joined = join(
        layout, configuration, root=root, epoch_key=epoch_key, labels=labels, controllers=controllers
    )
    platform = next(iter(joined.trust.platforms.values()))
    return Provisioned(
        fresh=fresh,
        host=joined.host,
        log_origin=joined.log_origin,
        tier=joined.tier,
        platform=f"{platform.name} version {platform.version}",
        selection=platform.selection,
        notes=_notes(joined.tier),
        request=joined.request,
        record=joined.record,
        ended=joined.ended,
    )


def choose_tpm(requested: str, layout: Layout, environ: Mapping[str, str]) -> ChosenTpm:
    """Which TPM `init` provisions.

    Args:
        requested: `auto`, `embedded`, or a TCTI string.
        layout: What was configured before stays: keys of one TPM are of no use on another.
        environ: `ATTESTD_TPM` overrides the configuration.

    Raises:
        UsageError: Another TPM is configured.
        StoreError: The configuration cannot be read.
    """
    if layout.configuration.exists() or "ATTESTD_TPM" in environ:
        configured = load_configuration(layout.configuration, environ).tpm
        if requested not in ("auto", configured):
            raise UsageError(
                f"this installation uses the TPM {configured!r} ({layout.configuration}), not {requested!r}: choose"
                " another --state-dir for another TPM"
            )
        return ChosenTpm(configured, None)
    if requested != "auto":
        return ChosenTpm(requested, None)
    if not Path(DEVICE).exists():
        return ChosenTpm(EMBEDDED, f"this host has no TPM ({DEVICE} does not exist)")
    try:
        with Tpm(f"device:{DEVICE}") as tpm:
            tpm.properties()
    except TpmError as error:
        return ChosenTpm(EMBEDDED, f"the TPM of this host cannot be used: {error}")
    return ChosenTpm(f"device:{DEVICE}", None)


def _find_provisioned(
    layout: Layout, configuration: Configuration, account: Account | None
) -> Provisioned | None:
    """What is there, if all of it is; None if something is missing and the steps must be taken."""
    source = layout.trust_source(configuration)
    own = (layout.configuration, layout.log, layout.keys, layout.host)
    if not all(path.exists() for path in (*own, source.anchor / ROOT, source.mirror / METADATA / TIMESTAMP)):
        return None
    host, log_origin, size = _log_facts(layout, account)
    trust = load_trust(source)
    with acting_as(account):
        blobs, _ = load_keys(layout.keys)
    if not size or not trust.platforms or not is_record_of(trust.hosts.get(host), blobs):
        return None
    return _provisioned(trust, host, log_origin, fresh=False)


def _log_facts(layout: Layout, account: Account | None) -> tuple[str, str, int]:
    with acting_as(account):
        store = LogStore.open(str(layout.log), readonly=True)
        try:
            return store.host_id, store.origin, store.size
        finally:
            store.close()


def _require_same(found: Provisioned, *, pcrs: str | None) -> None:
    if pcrs is not None and selection_from_text(pcrs) != found.selection:
        raise UsageError(
            f"this host is initialised with {found.selection}: init changes nothing that is there; attestd platform"
            " approve approves new states of these PCRs"
        )


def _provisioned(trust: Trust, host: str, log_origin: str, *, fresh: bool) -> Provisioned:
    platform = trust.platforms.get(PLATFORM) or next(iter(trust.platforms.values()), None)
    record = trust.hosts.get(host)
    if platform is None or record is None:
        missing = f"record of host {host}{trust.why_none(host)}" if record is None else "platform policy"
        raise VerificationError(
            f"governance has no usable {missing}: nothing is released here; attestd doctor says what to do"
        )
    return Provisioned(
        fresh=fresh,
        host=host,
        log_origin=log_origin,
        tier=record.tier,
        platform=f"{platform.name} version {platform.version}",
        selection=platform.selection,
        notes=_notes(record.tier),
    )


class _Standalone:
    """The steps of a host with authorities of its own."""

    def __init__(self, layout: Layout, configuration: Configuration, steps: HostSteps) -> None:
        self._layout, self._configuration, self._steps = layout, configuration, steps
        self._now = datetime.now(UTC).replace(microsecond=0)

    def run(self, selection: PcrSelection, labels: Mapping[str, str]) -> None:
        steps, local = self._steps, LocalAuthorities(self._layout)
        present = local.files()
        files = {name: data for name, data in self._first_files(local).items() if name not in present}
        known = parse_authorities({**files, **present}["authorities.json"])
        ek = steps.tpm(lambda tpm: tpm.endorsement_key())
        blobs = steps.make_keys(local["root"].public)
        steps.define_epoch(FIRST_EPOCH, local["epoch"].public, lambda: local["epoch"])
        steps.define_counter()
        host = host_id(ek.public)
        if not is_record_of(_record(present.get(f"hosts/{host}.json"), known), blobs):
            request = steps.draft_request(known, ek, blobs, labels=labels, now=self._now)
            signers = [local["local"].sign]
            record = sign_host_request(request, signers=signers)
            files |= replace_host_record(present, record, host=host, now=self._now, signers=signers)
        if f"platform/{PLATFORM}.json" not in present:
            files[f"platform/{PLATFORM}.json"] = self._platform_policy(local, known, selection)
        local.publish(files)
        source = self._layout.trust_source(self._configuration)
        trust, seen = first_seen(source)
        steps.pin_host(host)
        steps.make_log(host, blobs, selection_of(trust), seen=seen, now=self._now)
        steps.write_configuration()

    def _first_files(self, local: LocalAuthorities) -> Mapping[str, bytes]:
        return {
            "authorities.json": draft_authorities(
                name="local",
                authorization=local["local"].public,
                enroller=local["local"].public,
                root=local["root"].public,
                platform=local["platform"].public,
                epoch=local["epoch"].public,
            ),
            "revocations.json": draft_revocations(epoch=FIRST_EPOCH),
            "policy/entities.json": EMPTY_ENTITIES,
            "policy/exec.cedar": DEFAULT_POLICY,
            "policy/schema.cedarschema": SCHEMA,
        }

    def _platform_policy(self, local: LocalAuthorities, known: Authorities, selection: PcrSelection) -> bytes:
        values = self._steps.tpm(lambda tpm: tpm.read_pcrs(selection))
        return draft_platform_policy(
            name=PLATFORM,
            version=1,
            values={selection.bank: {index: [value] for index, value in values.items()}},
            approvals=[
                approve_state(
                    known,
                    selection=selection,
                    values=values,
                    epoch=FIRST_EPOCH,
                    sign_platform=local["platform"].sign,
                )
            ],
            platform_keys=[
                approve_platform_key(
                    known,
                    platform=local["platform"].public.key_id,
                    max_epoch=MAX_EPOCH,
                    sign_root=local["root"].sign,
                )
            ],
            min_tier=self._steps.tier(),
            userspace=["none"],
        )


def _record(data: bytes | None, authorities: Authorities) -> VerifiedHost | None:
    return (
        None if data is None else parse_host_record(data, authorities=authorities, revoked_keys=frozenset())
    )


def _notes(tier: str) -> tuple[str, ...]:
    software = (
        "this is a software TPM: it protects nothing from root, and every receipt says so (tier software);"
        " for development and tests only"
    )
    return (software,) if tier == "software" else ()
