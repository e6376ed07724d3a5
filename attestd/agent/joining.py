"""A host that joins a repository: it is given a root of trust, and asks the enrollers for its host record."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestd.account import acting_as, agent_account
from attestd.agent.enrolling import Asked, Enrolling
from attestd.agent.enrolment import vouched_tier
from attestd.agent.governance import Updater, first_seen
from attestd.agent.identity import is_record_of, selection_of
from attestd.agent.provision_steps import HostSteps, Signs, make_directories, opened_tpm
from attestd.authorization.dsse import PublicKey
from attestd.distribution.mirror import ROOT, read_anchor
from attestd.distribution.signer import Authority
from attestd.durable import write_atomic
from attestd.errors import AttestdError, UsageError
from attestd.governance.trust import Trust
from attestd.paths import Configuration, Layout
from attestd.tcg.public import host_id, parse_public

__all__ = ["Controllers", "Joined", "join"]


@dataclass(frozen=True)
class Joined:
    """What joining came to.

    Attributes:
        trust: What is published.
        host: This host's id.
        log_origin: Its log's.
        tier: What its evidence is rooted in.
        request: The host record that the enrollers are to sign; None: they did.
        record: The host record that they signed, which waits to be published; None: it is, or is not signed.
        ended: The end of the record before, which is published with it; None: there was none.
    """

    trust: Trust
    host: str
    log_origin: str
    tier: str
    request: Path | None
    record: Path | None = None
    ended: Path | None = None


@dataclass(frozen=True)
class Controllers:
    """Enrollers that are asked over HTTP.

    Attributes:
        enrollers: Whom to ask.
        wait_s: For how long to wait for what they decide.
        say: Is told what is waited for.
    """

    enrollers: Sequence[Asked]
    wait_s: float
    say: Callable[[str], None]


def _downloaded(
    layout: Layout, configuration: Configuration, *, host: str | None
) -> tuple[Trust, dict[str, Any]]:
    source = layout.trust_source(configuration)
    with acting_as(agent_account(layout)):
        Updater(source, configuration, host=host).update(None)
    return first_seen(source)


def join(
    layout: Layout,
    configuration: Configuration,
    *,
    root: bytes,
    epoch_key: Callable[[], Authority] | None,
    labels: Mapping[str, str],
    controllers: Controllers | None = None,
) -> Joined:
    """Provisions a host by what others publish. Done again, it finishes what is missing.

    Args:
        layout: Where.
        configuration: Which TPM, and where governance is published.
        root: The root of trust: how it came here is what everything rests on.
        epoch_key: Gives the epoch authority's key, which must sign once for each TPM; asked only then. None: an enroller
            that is asked has it.
        labels: For the host record.
        controllers: The enrollers to ask; None: the record is left to be signed elsewhere.

    Raises:
        UsageError: The host has another root of trust; no platform policy is published; there is no epoch key.
        StoreError, VerificationError, MalformedError: What is published cannot be read or does not verify.
        AgentError: Enrollers, or their operators, have not decided yet: done again, it goes on.
        TpmError: The TPM is not usable, or holds another installation's indices.
    """
    make_directories(layout, agent_account(layout))
    trust = _trust_from(root, layout, configuration)
    authorities, now = trust.authorities, datetime.now(UTC).replace(microsecond=0)
    with opened_tpm(layout, configuration) as owner:
        steps = HostSteps(layout, configuration, owner)
        ek = steps.tpm(lambda tpm: tpm.endorsement_key())
        blobs = steps.make_keys(_public(authorities.root.key))
        host = host_id(ek.public)
        trust, seen = _downloaded(layout, configuration, host=host)  # with its own records, if it has any
        published = is_record_of(trust.hosts.get(host), blobs)
        tier = vouched_tier(ek, trust, now) or steps.tier()
        enrolling = None
        request = record = ended = None
        if controllers is not None:
            enrolling = Enrolling(
                steps, controllers.enrollers, authorities, ek=ek, blobs=blobs, labels=labels, now=now
            )
        if not published and controllers is not None and enrolling is not None:
            enrolling.run(wait_s=controllers.wait_s, say=controllers.say).write(layout)
            record = layout.host_record
            ended = layout.host_record_ended if layout.host_record_ended.exists() else None
        elif not published:
            request = layout.host_request
            draft = steps.draft_request(authorities, ek, blobs, labels=labels, now=now, tier=tier)
            write_atomic(request, draft, mode=0o644)
        records = trust.known_records(host).usable
        before = [past for past in records if past.ak_name != parse_public(blobs.ak_public).name]
        epoch = max(1, trust.revocations.epoch)
        steps.define_epoch(epoch, _public(authorities.epoch.key), _epoch_signer(epoch_key, enrolling))
        # The counter of the keys before answers to nobody any more; the enrollers admitted the new ones.
        steps.define_counter(replaces=bool(before) and controllers is not None)
        steps.pin_host(host)
        selection = selection_of(trust)
        log_origin = steps.make_log(host, blobs, selection, seen=seen, now=now, reenrolled=bool(before))
    steps.write_configuration()
    return Joined(trust, host, log_origin, tier, request, record, ended)


def _trust_from(root: bytes, layout: Layout, configuration: Configuration) -> Trust:
    """Puts the root of trust where it belongs, and downloads what is published under it."""
    source, anchor = layout.trust_source(configuration), layout.trust / ROOT
    given = not anchor.exists()
    if given:
        write_atomic(anchor, root, mode=0o644)
    elif read_anchor(source) != root:
        raise UsageError(
            f"{anchor} is another root of trust than the one that was given: choose another --state-dir, or remove"
            " what is there (attestd deprovision --purge)"
        )
    try:
        return _downloaded(layout, configuration, host=None)[0]
    except AttestdError:
        if given:  # a root under which nothing verifies must not stand in the way of the right one
            anchor.unlink()
        raise


def _epoch_signer(
    epoch_key: Callable[[], Authority] | None, enrolling: Enrolling | None
) -> Callable[[], Signs]:
    if epoch_key is not None:
        return epoch_key
    if enrolling is None:
        raise UsageError("the epoch authority's key is needed, or an enroller that has it")
    return enrolling.epoch_signer


def _public(key: ec.EllipticCurvePublicKey) -> PublicKey:
    return PublicKey(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
