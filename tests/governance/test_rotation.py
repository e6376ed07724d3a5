"""A key replaced by another: what it was trusted for, the new one is; what rested on it verifies; history stays."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from attestd.authorization.dsse import PublicKey
from attestd.errors import UsageError, VerificationError
from attestd.governance.metadata import verify_metadata
from attestd.governance.rotation import ROLES, Rotation, replace_key
from attestd.governance.succession import replace_host_record, retire_host_record
from attestd.governance.trust import Trust, parse_trust
from attestd.lineage.entry import EntryType
from attestd.lineage.receipt import parse_receipt, sealed_by, verify_receipt
from attestd.strict import canonical, format_time, parse_json
from attestd.tcg.policy import REF_EPOCH_SET, approval_message, epoch_set_policy
from attestd.tcg.public import authority_name
from attestd.tlog.checkpoint import BatchMode
from attestd.tlog.note import parse_note
from tests.repository import Repository
from tests.world import (
    NOW,
    AnyKey,
    Host,
    Log,
    World,
    b64,
    ed25519_key,
    key_id,
    looked_at,
    p256,
    read_of,
    sign,
    signer,
    spki,
)

NEW = p256("another")
NEW_ED = ed25519_key("another")
END = NOW + timedelta(seconds=1)


@pytest.fixture
def world() -> World:
    return World()


def trust_of(files: dict[str, bytes], world: World) -> Trust:
    repository = Repository(world.name, now=world.now)
    repository.publish(files)
    metadata = repository.metadata
    found = verify_metadata(lambda name, _: metadata.get(name), root=repository.root, floor=None)
    return looked_at(parse_trust(read_of(files), metadata=found))


def rotated(world: World, old: AnyKey, new: AnyKey, *keys: AnyKey, **options: Any) -> Rotation:
    return replace_key(
        world.files(),
        old=key_id(old),
        new=PublicKey(spki(new)),
        signers={key_id(key): signer(key) for key in (new, *keys)},
        revoked_keys=options.pop("revoked_keys", ()),
        now=END,
        **options,
    )


def after(world: World, rotation: Rotation) -> Trust:
    return trust_of(applied(world.files(), rotation), world)


def applied(files: dict[str, bytes], rotation: Rotation) -> dict[str, bytes]:
    changed = dict(rotation.files)
    both = {name: changed.get(name, files.get(name)) for name in files.keys() | changed.keys()}
    return {name: data for name, data in both.items() if data is not None}


def ids(keys: tuple[PublicKey, ...]) -> set[str]:
    return {key.key_id for key in keys}


def test_an_authorization_key(world: World) -> None:
    rotation = rotated(world, world.authors[0], NEW_ED)
    trust = after(world, rotation)
    assert ids(trust.authorities.rules[0].keys) == {key_id(NEW_ED)}
    assert rotation.places == ("rule 'local'",)
    assert rotation.signed_again == ()
    assert set(rotation.files) == {"authorities.json"}
    assert "issue it anew" in rotation.notes[0]
    assert key_id(world.authors[0]) not in rotation.files["authorities.json"].decode()
    assert trust.authorities.former == ()
    assert trust.unusable == {}


def test_a_team_key(world: World) -> None:
    team, other = ed25519_key("team"), ed25519_key("other")
    rule = {
        "name": "web",
        "paths": ["/srv/web/"],
        "uids": None,
        "keys": [key_id(team)],
        "threshold": 1,
        "max_depth": 0,
    }
    world.authorities["teams"] = {"web": {"paths": ["/srv/"], "uids": None, "max_depth": 0}}
    for name, key in (("web", team), ("db", other)):
        world.authorities["teams"][name] = {"paths": ["/srv/"], "uids": None, "max_depth": 0}
        spkis = {key_id(key): {"spki": b64(spki(key))}}
        world.teams[name] = {
            "v": 1,
            "version": 1,
            "keys": spkis,
            "authorizations": [{**rule, "keys": [key_id(key)]}],
        }
    rotation = rotated(world, team, NEW_ED)
    assert set(rotation.files) == {"teams/web/authorities.json"}
    trust = after(world, rotation)
    assert ids(next(rule for rule in trust.authorities.rules if rule.name == "web/web").keys) == {
        key_id(NEW_ED)
    }
    assert rotation.places == ("teams/web/authorities.json: rule 'web'",)


def test_an_enroller_signs_every_record_again(world: World) -> None:
    other = Host("other", root=world.root)
    world.records[other.id] = world.host_record(other)
    rotation = rotated(world, world.enrollers[0], NEW_ED)
    trust = after(world, rotation)
    assert set(rotation.signed_again) == {f"hosts/{world.host.id}.json", f"hosts/{other.id}.json"}
    assert {host.enrollers for host in trust.hosts.values()} == {(key_id(NEW_ED),)}
    assert len(trust.hosts) == 2
    without = trust_of({**world.files(), "authorities.json": rotation.files["authorities.json"]}, world)
    assert without.hosts == {}, "without that they would not verify"


def test_one_of_two_enrollers(world: World) -> None:
    world.enrollers.append(ed25519_key("second enroller"))
    world.authorities["keys"][key_id(world.enrollers[1])] = {"spki": b64(spki(world.enrollers[1]))}
    world.authorities["enrollers"] = {"keys": [key_id(key) for key in world.enrollers], "threshold": 2}
    trust = after(world, rotated(world, world.enrollers[0], NEW_ED))
    assert set(trust.hosts[world.host.id].enrollers) == {key_id(NEW_ED), key_id(world.enrollers[1])}


def test_a_platform_key_under_the_same_release_key(world: World) -> None:
    before = world.trust()
    rotation = rotated(world, world.platform_key, NEW, world.root)
    trust = after(world, rotation)
    policy, old = trust.platforms["local"], before.platforms["local"]
    assert (policy.version, policy.approvals[0].platform.key_id) == (2, key_id(NEW))
    assert policy.approval_for(world.pcr_digest, epoch=1, at=NOW) is not None
    assert policy.approvals[0].policy_digest == old.approvals[0].policy_digest
    assert trust.hosts[world.host.id].release_name == before.hosts[world.host.id].release_name
    assert set(trust.authorities.platform) == {key_id(NEW)}
    assert [set(past.platform) for past in trust.authorities.former] == [{key_id(world.platform_key)}]
    kept = trust.platform_version("local", 1)
    assert kept is not None
    assert kept.digest == old.digest
    assert trust.unusable == {}
    assert rotation.notes == ()


def test_a_former_platform_key_approves_nothing_now(world: World) -> None:
    """What the old key signs after it was replaced is no policy in force."""
    rotation = rotated(world, world.platform_key, NEW, world.root)
    forged = canonical(world.platform_file(version=3))
    trust = trust_of({**applied(world.files(), rotation), "platform/local.json": forged}, world)
    assert "no platform authority" in trust.unusable["platform/local.json"]
    assert not trust.platforms


def test_old_receipts_go_on_verifying(world: World) -> None:
    receipt = world.grant().receipt
    first = after(world, rotated(world, world.platform_key, NEW, world.root))
    assert verify_receipt(parse_receipt(receipt), trust=first).approval is not None
    for role, key, signed_by in (
        ("root", world.root, (world.enrollers[0],)),
        ("epoch", world.epoch_key, (world.root, world.platform_key, world.enrollers[0])),
    ):
        trust = after(world, rotated(world, key, p256(role), *signed_by))
        assert trust.platform_version("local", 1) is not None
        assert not trust.hosts, "until the host has new keys"
        assert trust.unusable == {}
        assert verify_receipt(parse_receipt(receipt), trust=trust).approval is not None


def test_the_root_and_the_epoch_authority(world: World) -> None:
    by_root = rotated(world, world.root, NEW, world.enrollers[0])
    trust = after(world, by_root)
    assert trust.authorities.root.name == authority_name(NEW.public_key())
    assert trust.platforms["local"].approvals[0].root.key_id == key_id(NEW)
    assert "attestd rekey" in by_root.notes[0]
    by_epoch = rotated(world, world.epoch_key, NEW, world.root, world.platform_key, world.enrollers[0])
    trust = after(world, by_epoch)
    assert trust.authorities.epoch_name != world.trust().authorities.epoch_name
    assert trust.platforms["local"].approval_for(world.pcr_digest, epoch=1, at=NOW) is not None
    assert "new epoch authority" in by_epoch.notes[0]


def test_a_bump_by_the_epoch_authority_before(world: World) -> None:
    """It is for an index that is gone: with it nothing would load."""
    policy = epoch_set_policy(epoch_name=world.epoch_name, epoch=1)
    signature = sign(world.epoch_key, approval_message(policy, REF_EPOCH_SET))
    world.revocations = {**world.revocations, "epoch": 1, "bump": {"epoch": 1, "sig": b64(signature)}}
    assert world.trust().revocations.bump is not None
    keys = (world.root, world.platform_key, world.enrollers[0])
    trust = after(world, rotated(world, world.epoch_key, NEW, *keys))
    assert (trust.revocations.epoch, trust.revocations.bump, trust.revocations.version) == (1, None, 2)
    assert after(world, rotated(world, world.root, NEW, *keys)).revocations.bump is not None


def test_states_that_hold_longer(world: World) -> None:
    """Up to an epoch that ends all that the old key may approve: so are those of other platform keys."""
    second = p256("second platform")
    world.authorities["keys"][key_id(second)] = {"spki": b64(spki(second))}
    world.authorities["tpm"]["platform"].append(key_id(second))
    file, other = world.platform_file(), world.platform_file(platform_key=second)
    file["approvals"] += other["approvals"]
    file["platform_keys"] += other["platform_keys"]
    world.platforms["local"] = file
    trust = after(world, rotated(world, world.platform_key, NEW, world.root, second, epoch=7))
    found = {(item.platform.key_id, item.epoch) for item in trust.platforms["local"].approvals}
    assert found == {(key_id(NEW), 7), (key_id(second), 7)}
    assert all(item.max_epoch >= 7 for item in trust.platforms["local"].approvals)
    with pytest.raises(UsageError, match="approves the states"):
        rotated(world, world.platform_key, NEW, world.root, epoch=7)


def test_one_after_the_other(world: World) -> None:
    rotation = rotated(world, world.platform_key, NEW, world.root)
    files = applied(world.files(), rotation)
    again = replace_key(
        files,
        old=key_id(NEW),
        new=PublicKey(spki(p256("third"))),
        signers={key_id(key): signer(key) for key in (p256("third"), world.root)},
        revoked_keys=(),
        now=END,
    )
    trust = trust_of(applied(files, again), world)
    assert [next(iter(past.platform)) for past in trust.authorities.former] == [
        key_id(NEW),
        key_id(world.platform_key),
    ]
    assert set(trust.history) == {("local", 1), ("local", 2)}
    assert trust.platforms["local"].version == 3


def test_in_one_role_of_two(world: World) -> None:
    """A key that has several keeps those that nobody named."""
    world.authorities["enrollers"]["keys"] = [key_id(world.authors[0])]
    world.enrollers = [world.authors[0]]
    rotation = rotated(world, world.authors[0], NEW_ED, roles=["authorizations"])
    trust = after(world, rotation)
    assert ids(trust.authorities.enroller_keys) == {key_id(world.authors[0])}
    both = after(world, rotated(world, world.authors[0], NEW_ED))
    assert ids(both.authorities.enroller_keys) == {key_id(NEW_ED)}
    assert (
        key_id(world.authors[0])
        not in rotated(world, world.authors[0], NEW_ED).files["authorities.json"].decode()
    )


def test_a_key_that_was_stolen(world: World) -> None:
    """Revoked first: its states are approved by the new key, and what it approved before verifies nothing any more."""
    second = p256("second platform")
    world.authorities["keys"][key_id(second)] = {"spki": b64(spki(second))}
    world.authorities["tpm"]["platform"].append(key_id(second))
    file, other = world.platform_file(), world.platform_file(platform_key=second, epoch=2)
    file["approvals"] += other["approvals"]
    file["platform_keys"] += other["platform_keys"]
    world.platforms["local"] = file
    revoked = [key_id(world.platform_key), key_id(second)]
    world.revocations["keys"] = revoked
    trust = after(world, rotated(world, world.platform_key, NEW, world.root, revoked_keys=revoked))
    assert [item.platform.key_id for item in trust.platforms["local"].approvals] == [key_id(NEW)]
    assert trust.history["local", 1].approvals == ()
    left = after(
        world, rotated(world, world.epoch_key, NEW, world.root, world.enrollers[0], revoked_keys=revoked)
    )
    assert left.platforms["local"].approvals == (), "nothing is left that could be approved again"


def test_windows_go_with_their_states(world: World) -> None:
    second = p256("second platform")
    world.authorities["keys"][key_id(second)] = {"spki": b64(spki(second))}
    world.authorities["tpm"]["platform"].append(key_id(second))
    file = world.platform_file()
    other = world.platform_file(platform_key=second, values={pcr: bytes(32) for pcr in world.values})
    file["approvals"] += other["approvals"]
    file["platform_keys"] += other["platform_keys"]
    end = NOW + timedelta(days=1)
    file["lifecycle"]["windows"] = [
        {"pcr_digest": item["pcr_digest"], "not_after": format_time(end)} for item in file["approvals"]
    ]
    world.platforms["local"] = file
    trust = after(world, rotated(world, world.platform_key, NEW, world.root))
    assert set(trust.platforms["local"].windows.values()) == {end}
    assert len(trust.platforms["local"].windows) == 2
    world.revocations["keys"] = [key_id(second)]
    rotation = rotated(world, world.platform_key, NEW, world.root, revoked_keys=[key_id(second)])
    assert after(world, rotation).platforms["local"].windows == {world.pcr_digest: end}


def test_refused(world: World) -> None:
    cases: list[tuple[AnyKey, AnyKey, tuple[AnyKey, ...], str]] = [
        (ed25519_key("stranger"), NEW_ED, (), "has none of these roles"),
        (world.platform_key, NEW, (), "the root approves the platform keys"),
        (world.epoch_key, NEW, (world.root,), "a platform key approves the states"),
        (world.root, NEW, (), "0 of their keys are here"),
    ]
    for old, new, keys, words in cases:
        with pytest.raises(UsageError, match=words):
            rotated(world, old, new, *keys)
    with pytest.raises(Exception, match="P-256"):
        rotated(world, world.root, NEW_ED)
    with pytest.raises(UsageError, match="expected one of"):
        rotated(world, world.root, NEW, roles=["tpm"])
    with pytest.raises(UsageError, match="each key counts once"):
        rotated(world, world.authors[0], world.authors[0])
    with pytest.raises(UsageError, match="the new enroller signs"):
        replace_key(
            world.files(),
            old=key_id(world.enrollers[0]),
            new=PublicKey(spki(NEW_ED)),
            signers={},
            revoked_keys=(),
            now=END,
            roles=ROLES,
        )


def test_what_others_enrolled_and_what_ended_is_left_alone(world: World) -> None:
    world.enrollers.append(ed25519_key("second enroller"))
    world.authorities["keys"][key_id(world.enrollers[1])] = {"spki": b64(spki(world.enrollers[1]))}
    world.authorities["enrollers"] = {"keys": [key_id(key) for key in world.enrollers], "threshold": 1}
    files = world.files()
    first, second = (signer(key) for key in world.enrollers)
    name, past = f"hosts/{world.host.id}.json", f"hosts/history/{world.host.id}-1.json"
    record = retire_host_record(files[name], not_after=END, signers=[second])
    changed = replace_host_record(files, record, host=world.host.id, now=END, signers=[first])
    assert set(changed) == {name, past}
    assert replace_host_record({}, record, host=world.host.id, now=END, signers=[first]) == {name: record}
    files |= changed
    rotation = replace_key(
        files,
        old=key_id(world.enrollers[0]),
        new=PublicKey(spki(NEW_ED)),
        signers={key_id(NEW_ED): signer(NEW_ED)},
        revoked_keys=(),
        now=END,
    )
    assert rotation.signed_again == (past,)
    moved = replace_key(
        files,
        old=key_id(world.root),
        new=PublicKey(spki(NEW)),
        signers={key_id(NEW): signer(NEW), key_id(world.enrollers[1]): second},
        revoked_keys=(),
        now=END,
    )
    assert moved.files[name] is None
    assert f"hosts/history/{world.host.id}-2.json" in moved.files
    assert past not in moved.files


# --- a host with new keys --------------------------------------------------------------------------------------------


def rekeyed(world: World, *, root: Any = None) -> tuple[dict[str, bytes], Host]:
    """The host with another AK and release key on the same TPM, its old record in the history."""
    files = world.files()
    name = f"hosts/{world.host.id}.json"
    fresh = world.host.reinstalled("rekeyed", root=root or world.root)
    retired = retire_host_record(files[name], not_after=END, signers=[signer(world.enrollers[0])])
    world.records[world.host.id] = world.host_record(fresh)
    return {**world.files(), f"hosts/history/{world.host.id}-1.json": retired}, fresh


def test_what_the_old_keys_sealed_verifies_and_releases_nothing(world: World) -> None:
    receipt = world.grant().receipt
    before = world.trust().hosts[world.host.id]
    files, fresh = rekeyed(world)
    trust = trust_of(files, world)
    verified = verify_receipt(parse_receipt(receipt), trust=trust)
    assert verified.host.release_spki == before.release_spki
    assert verified.host is not trust.hosts[world.host.id]
    assert [record.not_after for record in trust.records(world.host.id)][1] == END
    assert trust.hosts[world.host.id].release_spki == spki(fresh.release_key)
    gone = trust_of(
        {name: data for name, data in files.items() if name != f"hosts/{world.host.id}.json"}, world
    )
    assert verify_receipt(parse_receipt(receipt), trust=gone).host.release_spki == before.release_spki


def test_the_old_keys_seal_nothing_after_their_end(world: World) -> None:
    """Whoever stole them cannot date an entry after it; before it, only witnesses could tell."""
    files, _ = rekeyed(world)
    trust = trust_of(files, world)
    log = Log(world.host, log_id="forged")
    log.append({}, type_=EntryType.LOG_START, time=world.now - timedelta(seconds=1), boot=world.boot)
    log.append({}, type_=EntryType.AGENT_START, time=END, boot=world.boot)
    note = log.seal(mode=BatchMode.RECORD, pcr_digest=world.pcr_digest)
    verify_receipt(parse_receipt(log.receipt(0, note)), trust=trust)
    with pytest.raises(VerificationError, match="not enrolled with these keys"):
        verify_receipt(parse_receipt(log.receipt(1, note)), trust=trust)


def test_a_checkpoint_says_whose_it_is(world: World) -> None:
    files, fresh = rekeyed(world)
    trust = trust_of(files, world)
    for host, expected in ((world.host, 1), (fresh, 0), (replace_ak(fresh), 0)):
        note = parse_note(_sealed(host, world))
        assert sealed_by(note, trust=trust)[0] is trust.records(world.host.id)[expected]
    with pytest.raises(VerificationError, match="no host record"):
        sealed_by(parse_note(_sealed(Host("stranger", root=world.root), world)), trust=trust)


def _sealed(host: Host, world: World) -> bytes:
    log = Log(host)
    log.append({}, type_=EntryType.LOG_START, time=world.now, boot=world.boot)
    return log.seal(mode=BatchMode.RECORD, pcr_digest=world.pcr_digest)


def replace_ak(host: Host) -> Host:
    strange = Host("strange", root=p256("strange"))
    strange.id = host.id
    return strange


def test_history_under_a_former_root(world: World) -> None:
    """New root, new TPM keys: receipts of before verify by what was trusted then."""
    receipt = world.grant().receipt
    rotation = rotated(world, world.root, NEW, world.enrollers[0])
    files, _ = rekeyed(world, root=NEW)
    trust = trust_of({**applied(files, rotation), **{n: d for n, d in files.items() if "hosts" in n}}, world)
    assert trust.unusable == {}
    assert verify_receipt(parse_receipt(receipt), trust=trust).approval is not None
    strange = trust_of({**world.files(), **{k: v for k, v in files.items() if "history" in k}}, world)
    assert strange.unusable


@pytest.mark.parametrize("name", ["x-1", "{0}", "{0}-", "{0}-x", "{0}-01", "{0}-1234567890"])
def test_history_under_another_name(world: World, name: str) -> None:
    files, _ = rekeyed(world)
    files[f"hosts/history/{name.format(world.host.id)}.json"] = files.pop(
        f"hosts/history/{world.host.id}-1.json"
    )
    trust = trust_of(files, world)
    assert not trust.host_history
    assert "expected hosts/HOST.json, or hosts/history/" in next(iter(trust.unusable.values()))


def test_several_ends(world: World) -> None:
    """Newest first; an end that a record has is never moved on."""
    files, _ = rekeyed(world)
    name = f"hosts/history/{world.host.id}-1.json"
    later = retire_host_record(
        files[name], not_after=world.now + timedelta(days=1), signers=[signer(world.enrollers[0])]
    )
    assert trust_of({**files, name: later}, world).host_history[world.host.id][0].not_after == END
    earlier = retire_host_record(
        files[name], not_after=world.now - timedelta(hours=1), signers=[signer(world.enrollers[0])]
    )
    trust = trust_of({**files, f"hosts/history/{world.host.id}-10.json": earlier}, world)
    ends = [record.not_after for record in trust.host_history[world.host.id]]
    assert ends == [world.now - timedelta(hours=1), END]


def test_a_file_that_says_there_was_none_is_not_one_more_form(world: World) -> None:
    files = world.files()
    authorities = parse_json(files["authorities.json"], max_bytes=1 << 20, what="x")
    authorities["tpm"]["former"] = []
    with pytest.raises(Exception, match="former"):
        trust_of({**files, "authorities.json": canonical(authorities)}, world)
    assert replace(world.trust().authorities, former=()) == world.trust().authorities
