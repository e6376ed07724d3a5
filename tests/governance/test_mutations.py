"""Every member of every trust file: another kind of value, none, or an unknown one beside it is refused.

The exceptions are listed: they are what the formats leave open.
"""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from attestd.errors import MalformedError, VerificationError
from attestd.governance.trust import Trust
from attestd.strict import canonical
from tests.governance.make_vectors import golden_world
from tests.governance.mutations import added, get, places, put, removed, replaced
from tests.world import World, parse_files

LEGITIMATE: dict[str, list[tuple[Any, ...]]] = {
    # A team that is not there, or less of one, makes the team's file unusable: that is refused, see `refused`.
    "authorities": [
        ("authorizations", []),
        ("authorizations", 0, "name", "x"),
        ("teams", "payments", "uids", None),
    ],
    "team": [
        ("authorizations", []),
        ("authorizations", 0, "name", "x"),
        ("authorizations", 0, "max_depth", 0),
    ],
    "revocations": [
        *((name, []) for name in ("artifacts", "keys", "hosts", "subjects", "requesters")),
        ("requesters", 0, 0),
        ("bump", None),
    ],
    "platform": [
        ("reference", "pcrs", {}),
        ("reference", "pcrs", "sha256", {}),
        ("lifecycle", "valid_until", None),
        # left out
        ("reference", "pcrs", "sha256"),
        *(("reference", "pcrs", "sha256", str(pcr)) for pcr in (0, 2, 4, 7, 11, 12)),
    ],
    # Signed again by the enrollers, or labels could not be changed at all.
    "host": [("labels", {}), ("labels", "role", "x"), ("labels",), ("labels", "role")],
}


def write(world: World, kind: str, value: Any) -> dict[str, bytes]:
    """The trust files with one of them changed."""
    if kind == "host":
        world.records = {world.host.id: value}
        return world.files()
    if kind == "team":
        return {**world.files(), "teams/payments/authorities.json": canonical(value)}
    name = "platform/local.json" if kind == "platform" else f"{kind}.json"
    return {**world.files(), name: canonical(value)}


def refused(files: dict[str, bytes]) -> bool:
    """Nothing is trusted, or the file that does not verify is left out."""
    try:
        trust = parse_files(files)
    except (MalformedError, VerificationError):
        return True
    assert isinstance(trust, Trust)
    return bool(trust.unusable)


def original(world: World, kind: str) -> Any:
    values = {
        "authorities": world.authorities,
        "team": world.teams["payments"],
        "revocations": world.revocations,
        "platform": world.platforms["local"],
        "host": world.records[world.host.id],
    }
    return copy.deepcopy(values[kind])


@pytest.mark.parametrize("kind", LEGITIMATE)
def test_every_member(kind: str) -> None:
    world = golden_world()
    value = original(world, kind)
    changes = [((*place, new), changed) for place, new, changed in replaced(value)]
    changes += [*added(value), *removed(value)]
    accepted: list[tuple[Any, ...]] = []
    for what, changed in changes:
        if not refused(write(world, kind, changed)):
            accepted.append(what)
    assert all(what in LEGITIMATE[kind] for what in accepted)
    assert len(accepted) == len(LEGITIMATE[kind])


def flipped(text: str) -> str:
    """Another digest, or other base64, of the same length."""
    return ("1" if text[0] == "0" else "0") + text[1:]


@pytest.mark.parametrize("kind", ["authorities", "team", "platform", "host"])
def test_every_digest_key_and_signature(kind: str) -> None:
    """Of the right form, but another: whatever is not a free text is bound to something."""
    world = golden_world()
    value = original(world, kind)
    bound = [
        (place, text)
        for place in places(value)
        if isinstance(text := get(value, place), str) and len(text) >= 60 and "pcrs" not in place
    ]
    assert len(bound) >= {"authorities": 9, "team": 2, "platform": 6, "host": 8}[kind]
    for place, text in bound:
        for changed in (flipped(text), text[:-8] + flipped(text[-8:])):
            assert refused(write(world, kind, put(value, place, changed)))


@pytest.mark.parametrize("name", ["authorities.json", "revocations.json", "platform/local.json"])
@pytest.mark.parametrize(
    "spoil", [lambda data: data + b"\n", lambda data: data.replace(b":", b": ", 1), lambda _: b""]
)
def test_not_canonical(name: str, spoil: Callable[[bytes], bytes]) -> None:
    files = golden_world().files()
    assert refused({**files, name: spoil(files[name])})


def test_every_byte_of_a_host_record_is_signed() -> None:
    world = golden_world()
    files = world.files()
    name = f"hosts/{world.host.id}.json"
    data = files[name]
    for position in range(0, len(data), 5):
        changed = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
        assert refused({**files, name: changed})
