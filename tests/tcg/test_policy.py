import hashlib

import pytest

from attestd.errors import UsageError
from attestd.tcg import policy
from attestd.tcg.pcr import PcrSelection
from tests.tcg import build

NAME, OTHER = b"\x00\x0b" + b"n" * 32, b"\x00\x0b" + b"o" * 32
SELECTION = PcrSelection("sha256", (0, 7))
STATE = {"epoch_name": NAME, "epoch": 7, "selection": SELECTION, "pcr_digest": b"d" * 32, "lease_name": None}


def test_references_are_frozen():
    assert policy.REF_ROOT == b"attestd.root.v1"
    assert policy.REF_PLATFORM == b"attestd.platform.v1"
    assert policy.REF_EPOCH_INIT == b"attestd.epoch.init"
    assert policy.REF_EPOCH_SET == b"attestd.epoch.set"
    assert policy.REF_LEASE == b"attestd.lease.v1"


@pytest.mark.parametrize(
    "changed",
    [
        {"epoch_name": OTHER},
        {"epoch": 8},
        {"selection": PcrSelection("sha384", (0, 7))},
        {"selection": PcrSelection("sha256", (0, 8))},
        {"pcr_digest": b"e" * 32},
        {"lease_name": NAME},
        {"lease_name": OTHER},
    ],
)
def test_every_input_of_a_platform_policy_changes_it(changed):
    assert policy.platform_policy(**STATE | changed) != policy.platform_policy(**STATE)


def test_every_input_of_a_root_policy_changes_it():
    def digest(platform=NAME, epoch_name=OTHER, max_epoch=9):
        return policy.root_policy(platform_name=platform, epoch_name=epoch_name, max_epoch=max_epoch)

    assert len({digest(), digest(platform=OTHER), digest(epoch_name=NAME), digest(max_epoch=10)}) == 4


def test_no_approval_can_serve_for_another_kind():
    """Platform, root and epoch approvals differ in their policyRef even over one digest by one key."""
    references = {policy.REF_ROOT, policy.REF_PLATFORM, policy.REF_EPOCH_SET}
    assert len({policy.approval_message(bytes(32), reference) for reference in references}) == 3
    assert policy.release_policy(NAME) != policy.policy_authorize(
        authority_name=NAME, policy_ref=policy.REF_PLATFORM
    )


def test_a_policy_reference_cannot_run_into_the_name():
    short = policy.policy_authorize(authority_name=NAME, policy_ref=b"x")
    first = hashlib.sha256(bytes(32) + bytes.fromhex("0000016a") + NAME).digest()
    assert short == hashlib.sha256(first + b"x").digest()
    assert short != hashlib.sha256(bytes(32) + bytes.fromhex("0000016a") + NAME + b"x").digest()


def test_signed_message_is_the_hashed_input():
    message = policy.signed_message(nonce_tpm=b"n" * 32, expiration=-60, cp_hash=b"c" * 32, policy_ref=b"ref")
    assert message == b"n" * 32 + bytes.fromhex("ffffffc4") + b"c" * 32 + b"ref"


@pytest.mark.parametrize(
    "call",
    [
        lambda: policy.policy_nv(bytes(31), nv_name=NAME, operand=b"x", operation=policy.Eo.UNSIGNED_LE),
        lambda: policy.policy_nv(bytes(32), nv_name=NAME, operand=b"", operation=policy.Eo.UNSIGNED_LE),
        lambda: policy.policy_nv(bytes(32), nv_name=NAME[:-1], operand=b"x", operation=policy.Eo.UNSIGNED_LE),
        lambda: policy.policy_signed(bytes(32), authority_name=b"\x00\x0c" + b"n" * 48, policy_ref=b""),
        lambda: policy.policy_authorize(authority_name=b"\x00\x0c" + b"n" * 32, policy_ref=b""),
        lambda: policy.policy_command_code(b"", policy.CC_SIGN),
        lambda: policy.policy_auth_value(b""),
        lambda: policy.policy_pcr(bytes(32), SELECTION, b""),
        lambda: policy.policy_cp_hash(bytes(32), b""),
        lambda: policy.policy_or([bytes(32)]),
        lambda: policy.policy_or([bytes(32)] * 9),
        lambda: policy.policy_or([bytes(32), b""]),
        lambda: policy.approval_message(b"", policy.REF_ROOT),
        lambda: policy.signed_message(nonce_tpm=b"", expiration=0, cp_hash=b"", policy_ref=b""),
        lambda: policy.platform_policy(**STATE | {"epoch": -1}),
        lambda: policy.platform_policy(**STATE | {"epoch": 1 << 64}),
        lambda: policy.epoch_set_policy(epoch_name=b"", epoch=1),
        lambda: policy.nv_write_cp_hash(nv_name=b"", data=b""),
    ],
)
def test_refuses_what_a_tpm_would_not_compute(call):
    with pytest.raises(UsageError):
        call()


def test_names_of_real_keys_are_accepted():
    from attestd.tcg.public import authority_name

    assert len(policy.release_policy(authority_name(build.key(3).public_key()))) == 32
