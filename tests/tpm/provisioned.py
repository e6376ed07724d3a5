"""A provisioned TPM for tests: authorities with real keys, the host's keys and indices, approvals of its state."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from attestd.tcg.nv import epoch_name
from attestd.tcg.pcr import PcrSelection, composite
from attestd.tcg.policy import (
    REF_EPOCH_SET,
    REF_PLATFORM,
    REF_ROOT,
    approval_message,
    epoch_set_policy,
    platform_policy,
    root_policy,
)
from attestd.tcg.public import authority_public, parse_public
from attestd.tpm.device import Tpm
from attestd.tpm.keys import AuthValues, KeyBlobs
from attestd.tpm.release import ReleaseApproval

SELECTION = PcrSelection("sha256", (0, 2, 4, 7, 11, 12))
TEXT = b"attestd/host/log\n1\nroot\n"
DIGEST = sha256(TEXT).digest()
BOUND = sha256(b"bound").digest()  # extraData
FIRST_EPOCH, MAX_EPOCH = 7, 9


class Authority:
    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.public = authority_public(self.key.public_key())
        self.name = parse_public(self.public).name

    def sign(self, message: bytes) -> bytes:
        return self.key.sign(message, ec.ECDSA(SHA256()))


class Authorities:
    def __init__(self) -> None:
        self.root, self.platform, self.epoch = Authority(), Authority(), Authority()
        self.epoch_name = epoch_name(self.epoch.name)

    def approve(
        self,
        pcr_digest: bytes,
        *,
        epoch: int = FIRST_EPOCH,
        max_epoch: int = MAX_EPOCH,
        selection: PcrSelection = SELECTION,
        platform: Authority | None = None,
        root: Authority | None = None,
    ) -> ReleaseApproval:
        platform, root = platform or self.platform, root or self.root
        state = platform_policy(
            epoch_name=self.epoch_name, epoch=epoch, selection=selection, pcr_digest=pcr_digest
        )
        key = root_policy(platform_name=platform.name, epoch_name=self.epoch_name, max_epoch=max_epoch)
        return ReleaseApproval(
            epoch=epoch,
            selection=selection,
            pcr_digest=pcr_digest,
            platform_public=platform.public,
            platform_sig=platform.sign(approval_message(state, REF_PLATFORM)),
            max_epoch=max_epoch,
            root_public=root.public,
            root_sig=root.sign(approval_message(key, REF_ROOT)),
        )

    def bump(self, epoch: int, *, by: Authority | None = None) -> bytes:
        policy = epoch_set_policy(epoch_name=self.epoch_name, epoch=epoch)
        return (by or self.epoch).sign(approval_message(policy, REF_EPOCH_SET))


@dataclass
class Provisioned:
    tpm: Tpm
    authorities: Authorities
    auth_values: AuthValues
    blobs: KeyBlobs

    @property
    def release_key(self) -> ec.EllipticCurvePublicKey:
        key = parse_public(self.blobs.release_public).public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        return key

    @property
    def ak(self) -> ec.EllipticCurvePublicKey:
        key = parse_public(self.blobs.ak_public).public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        return key

    def approval(self) -> ReleaseApproval:
        """Of the present state."""
        return self.authorities.approve(composite(SELECTION, self.tpm.read_pcrs(SELECTION)))

    def bump(self, epoch: int) -> None:
        self.tpm.bump_epoch(
            epoch, authority_public=self.authorities.epoch.public, signature=self.authorities.bump(epoch)
        )

    def assert_signed(self, signature: bytes) -> None:
        self.release_key.verify(signature, TEXT, ec.ECDSA(SHA256()))


def provision(tpm: Tpm, authorities: Authorities | None = None) -> Provisioned:
    authorities = authorities or Authorities()
    auth_values = AuthValues.generate()
    blobs = tpm.create_keys(root_name=authorities.root.name, auth_values=auth_values)
    tpm.load_keys(blobs, auth_values)
    tpm.define_epoch(authorities.epoch.public)
    tpm.init_epoch(FIRST_EPOCH, authority_public=authorities.epoch.public, sign=authorities.epoch.sign)
    tpm.define_counter(auth_values.counter)
    return Provisioned(tpm, authorities, auth_values, blobs)


class Between:
    """Stands between `Tpm` and a real TPM: sees each command, and may act before it or change its answer."""

    def __init__(self, tcti: str) -> None:
        from attestd.tpm._tcti import Tcti

        self.real = Tcti(tcti)
        self.seen: list[int] = []
        self.before: Callable[[int], bytes | None] = lambda _: None
        self.after: Callable[[int, bytes], bytes] = lambda _, response: response

    @property
    def is_lost(self) -> bool:
        return self.real.is_lost

    def exchange(self, command: bytes) -> bytes:
        code = int.from_bytes(command[6:10], "big")
        self.seen.append(code)
        instead = self.before(code)
        return instead if instead is not None else self.after(code, self.real.exchange(command))

    def close(self) -> None:
        self.real.close()
