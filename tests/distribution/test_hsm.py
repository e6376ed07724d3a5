"""Keys in a PKCS#11 token, shown with SoftHSM: they sign what attestd verifies, and never come out."""

from pathlib import Path

import pkcs11
import pytest
from securesystemslib.signer import SSlibKey

from attestd.distribution.hsm import HsmSigner
from attestd.distribution.signer import (
    generate,
    generate_in_token,
    import_from_token,
    load_authority,
    load_public,
)
from attestd.errors import MalformedError, StoreError, UsageError
from tests.softhsm import LIBRARY, PIN

IDS = iter(range(100, 1000))


def pin(what: str) -> str:
    assert "PIN of token 'attestd'" in what
    return PIN


def never(what: str) -> str:
    raise AssertionError(f"asked for {what}")


@pytest.fixture
def uri(token: str) -> str:
    return f"hsm:{next(IDS)}?label={token}"


@pytest.mark.parametrize("kind", ["p256", "ed25519"])
def test_a_key_of_the_token_signs(tmp_path: Path, uri: str, kind: str) -> None:
    complete, public = generate_in_token(kind, uri, tmp_path / "key.pub", ask=pin)
    assert complete == uri
    assert load_public(tmp_path / "key.pub") == public
    authority = load_authority(uri, public_key=tmp_path / "key.pub", ask=pin)
    for message in (b"", b"message", bytes(100_000)):
        signed_by, signature = authority.sign(message)
        assert signed_by == public
        public.verify(message, signature)
    assert import_from_token(uri, tmp_path / "again.pub", ask=never) == (uri, public)
    assert (tmp_path / "again.pub").read_text() == (tmp_path / "key.pub").read_text()
    assert load_authority(uri, ask=pin).public == public, "the token shows it"
    assert PIN not in repr(authority)
    assert [path.suffix for path in tmp_path.iterdir()] == [".pub", ".pub"]


def test_the_private_key_stays_inside(tmp_path: Path, uri: str) -> None:
    generate_in_token("p256", uri, tmp_path / "key.pub", ask=pin)
    token = pkcs11.lib(LIBRARY).get_token(token_label="attestd")
    number = int(uri.partition(":")[2].partition("?")[0])
    with token.open(user_pin=PIN) as session:
        key = session.get_key(pkcs11.ObjectClass.PRIVATE_KEY, id=bytes([number]))
        assert key[pkcs11.Attribute.SENSITIVE]
        assert not key[pkcs11.Attribute.EXTRACTABLE]
        with pytest.raises(pkcs11.AttributeSensitive):
            key[pkcs11.Attribute.VALUE]


def test_the_only_token_needs_no_label(tmp_path: Path, uri: str) -> None:
    complete, _ = generate_in_token("p256", uri.partition("?")[0], tmp_path / "key.pub", ask=pin)
    assert complete == uri


def test_the_pin_is_asked_for_once(tmp_path: Path, uri: str) -> None:
    generate_in_token("p256", uri, tmp_path / "key.pub", ask=pin)
    asked: list[str] = []

    def count(what: str) -> str:
        asked.append(what)
        return PIN

    authority = load_authority(uri, public_key=tmp_path / "key.pub", ask=count)
    assert asked == []
    authority.sign(b"x")
    authority.sign(b"y")
    assert len(asked) == 1


def test_a_wrong_pin(tmp_path: Path, uri: str) -> None:
    generate_in_token("p256", uri, tmp_path / "key.pub", ask=pin)
    for wrong in ("87654321", "1", "x" * 300):
        authority = load_authority(uri, public_key=tmp_path / "key.pub", ask=lambda _, wrong=wrong: wrong)
        with pytest.raises(UsageError, match="wrong PIN") as caught:
            authority.sign(b"x")
        assert wrong not in str(caught.value) or len(wrong) == 1
    with pytest.raises(UsageError, match="nobody is there to ask"):
        load_authority(uri, public_key=tmp_path / "key.pub").sign(b"x")
    with pytest.raises(UsageError, match="wrong PIN"):
        generate_in_token("p256", f"hsm:9?label={'attestd'}", tmp_path / "other.pub", ask=lambda _: "1111")
    assert not (tmp_path / "other.pub").exists()


def test_nothing_is_overwritten(tmp_path: Path, uri: str) -> None:
    generate_in_token("p256", uri, tmp_path / "key.pub", ask=pin)
    with pytest.raises(UsageError, match="never overwritten"):
        generate_in_token("p256", uri, tmp_path / "other.pub", ask=pin)
    other = f"hsm:{next(IDS)}?label=attestd"
    with pytest.raises(UsageError, match="never overwritten"):
        generate_in_token("p256", other, tmp_path / "key.pub", ask=never)
    with pytest.raises(UsageError, match="never overwritten"):
        import_from_token(uri, tmp_path / "key.pub", ask=never)
    with pytest.raises(UsageError, match="ed25519, p256"):
        generate_in_token("rsa", other, tmp_path / "other.pub", ask=never)


def test_what_is_not_there(tmp_path: Path, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match="has no key 99"):
        import_from_token(f"hsm:99?label={token}", tmp_path / "key.pub", ask=pin)
    with pytest.raises(StoreError, match="'none': NoSuchToken"):
        import_from_token("hsm:99?label=none", tmp_path / "key.pub", ask=pin)
    public = generate("p256", tmp_path / "file").public
    absent = load_authority(f"hsm:99?label={token}", public_key=tmp_path / "file.pub", ask=pin)
    assert absent.public == public
    with pytest.raises(StoreError, match="NoSuchKey"):
        absent.sign(b"x")
    monkeypatch.setenv("PYKCS11LIB", str(tmp_path / "none.so"))
    with pytest.raises(StoreError, match=r"none\.so"):
        absent.sign(b"x")
    monkeypatch.delenv("PYKCS11LIB")
    with pytest.raises(UsageError, match="PYKCS11LIB must name"):
        absent.sign(b"x")


@pytest.mark.parametrize(
    "uri", ["hsm:x", "hsm:-1", "hsm:2?label=a&x=b", "hsm:99999999999999999999", "hsm://host/2", "file:2"]
)
def test_other_uris(tmp_path: Path, token: str, uri: str) -> None:
    assert token
    with pytest.raises(UsageError, match="expected hsm:"):
        import_from_token(uri, tmp_path / "key.pub", ask=pin)


def test_keys_of_other_kinds(tmp_path: Path, uri: str, token: str) -> None:
    number = int(uri.partition(":")[2].partition("?")[0])
    with pkcs11.lib(LIBRARY).get_token(token_label=token).open(rw=True, user_pin=PIN) as session:
        session.generate_keypair(pkcs11.KeyType.RSA, 2048, store=True, id=bytes([number]))
    with pytest.raises(MalformedError, match="RSA, expected ECDSA or Ed25519"):
        import_from_token(uri, tmp_path / "key.pub", ask=pin)


def test_the_public_key_of_another_key(tmp_path: Path, uri: str) -> None:
    """What is signed then does not verify: whoever relies on it finds out at once."""
    generate_in_token("p256", uri, tmp_path / "key.pub", ask=pin)
    generate("p256", tmp_path / "other")
    public, signature = load_authority(uri, public_key=tmp_path / "other.pub", ask=pin).sign(b"x")
    with pytest.raises(Exception, match="does not verify"):
        public.verify(b"x", signature)


def test_as_securesystemslib_asks(tmp_path: Path, uri: str) -> None:
    _, public = generate_in_token("p256", uri, tmp_path / "key.pub", ask=pin)
    key = SSlibKey.from_crypto(public._key)
    signer = HsmSigner.from_priv_key_uri(uri, key, pin)
    key.verify_signature(signer.sign(b"x"), b"x")
    assert signer.public_key == key
    with pytest.raises(UsageError, match="somebody to ask"):
        HsmSigner.from_priv_key_uri(uri, key)
