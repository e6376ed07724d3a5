"""Which keys a host trusts and for what, as people are told it."""

from pathlib import Path

import pytest

from attestd.distribution.roles import keys_in_use, public_of
from attestd.distribution.signer import generate
from attestd.errors import MalformedError, StoreError
from tests.world import World, key_id


def test_every_key_and_all_its_roles() -> None:
    world = World(authors=2, threshold=2)
    world.authorities["enrollers"]["keys"].append(key_id(world.authors[0]))
    world.revocations["keys"] = [key_id(world.authors[1])]
    found = {key.key_id: key for key in keys_in_use(world.trust())}
    both, revoked = found[key_id(world.authors[0])], found[key_id(world.authors[1])]
    assert both.roles == ("authorizations: rule 'local', 2 of 2", "enrolling hosts, 1 of 2")
    assert (both.kind, both.revoked) == ("ed25519", False)
    assert revoked.revoked
    for key, word in ((world.root, "root"), (world.platform_key, "states"), (world.epoch_key, "epoch")):
        (role,) = found[key_id(key)].roles
        assert word in role
        assert found[key_id(key)].kind == "ecdsa secp256r1"
    assert set(found) == set(world.authorities["keys"])


@pytest.mark.parametrize(("kind", "shown"), [("ed25519", "ed25519"), ("p256", "ecdsa secp256r1")])
def test_the_public_half(tmp_path: Path, kind: str, shown: str) -> None:
    made = generate(kind, tmp_path / "key")
    halves = {public_of(uri) for uri in (f"{tmp_path}/key", f"file:{tmp_path}/key", f"{tmp_path}/key.pub")}
    (half,) = halves
    assert (half.key_id, half.kind) == (made.public.key_id, shown)
    assert half.pem == (tmp_path / "key.pub").read_text()


def test_the_public_half_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("x")
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(MalformedError):
        public_of(f"{tmp_path}/key")
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(StoreError):
            public_of(str(path))
