"""A process that may use the TPM: in group `tss`, with owner and lockout authorization, or with secrets it stole.

What it may get is that nothing is released any more. Not a release, not an old epoch, not a counter that lies. That an
approval serves no other command than TPM2_Sign is in tests/tpm/test_release.py.
"""

import base64
import hashlib
from collections.abc import Iterator

import pytest

from attestd.agent.keystore import load_keys
from attestd.distribution.signer import load_authority
from attestd.errors import TpmError, TpmRefusedError, VerificationError
from attestd.lineage.entry import EntryType, format_entry
from attestd.tcg.nv import COUNTER_INDEX, counter_public
from attestd.tcg.policy import REF_EPOCH_SET, approval_message, epoch_set_policy
from attestd.tcg.quote import join_quote
from attestd.tlog.checkpoint import Batch, BatchMode, Checkpoint
from attestd.tlog.note import NoteSignature, format_note
from attestd.tlog.proof import TlogProof, format_proof
from attestd.tlog.tree import Frontier, inclusion_proof, leaf_hash
from attestd.tlog.vkey import tpm_quote_vkey
from attestd.tpm import capabilities, nv
from attestd.tpm._commands import build, password, u32
from attestd.tpm.device import Tpm
from attestd.tpm.embedded import EmbeddedTpm
from attestd.tpm.release import _satisfy, _Sign, arm
from tests.host import Host, wait_for
from tests.tpm.provisioned import DIGEST, Provisioned, provision

_LOCKOUT, _CC_CLEAR = 0x4000000A, 0x126


@pytest.fixture
def intruder(host: Host) -> Iterator[Tpm]:
    """Another connection to the TPM of a running host."""
    assert host.run("/bin/true").status == 0
    with Tpm(EmbeddedTpm(host.layout.tpm).tcti) as tpm:
        yield tpm


def runs(host: Host) -> bool:
    return host.run("/bin/true").status == 0


def test_flushes_what_it_did_not_load(host: Host, intruder: Tpm) -> None:
    """Behind a resource manager it could not; without one, the agent loads its keys again."""
    for handle in capabilities.handles(intruder._channel, capabilities.TRANSIENT):
        intruder._channel.flush(handle)
    wait_for("service resumes", lambda: runs(host))
    host.wait_settled()
    host.require_sound()


def test_steps_the_counter_with_the_stolen_secret(host: Host, intruder: Tpm) -> None:
    """As one would who goes on in another copy of the log: whose batch it was does not matter, this log is not the one."""
    _, auth = load_keys(host.layout.keys)
    with pytest.raises(TpmRefusedError):
        nv.step_counter(intruder._channel, b"guess")
    assert runs(host)
    host.wait_settled()
    nv.step_counter(intruder._channel, auth.counter)
    assert not runs(host)
    assert host.wait_ended() == 1
    assert "someone else steps it" in host.agent_log
    host.start(wait=False)
    assert host.wait_ended() == 1, "nor does a restart make it right"


def test_defines_the_counter_anew_with_the_stolen_secret(host: Host, intruder: Tpm) -> None:
    """A new counter starts above every value that any counter had: it can be taken forward, never back."""
    _, auth = load_keys(host.layout.keys)
    host.wait_settled()
    before = nv.read_number(intruder._channel, COUNTER_INDEX, auth_value=auth.counter)
    nv.undefine(intruder._channel, COUNTER_INDEX)
    nv.define(intruder._channel, counter_public(written=False), auth_value=auth.counter)
    assert nv.step_counter(intruder._channel, auth.counter) > before
    assert not runs(host)
    assert host.wait_ended() == 1


def test_clears_the_tpm(host: Host, intruder: Tpm) -> None:
    """All keys and counters are gone, and with them the host: nothing is released, and no traceback says so."""
    command = build(_CC_CLEAR, handles=u32(_LOCKOUT), auth=password())  # type: ignore[arg-type]
    code, _ = intruder._channel.attempt(command)
    assert code == 0
    assert host.run("/bin/true").status == 69
    assert "Traceback" not in host.agent_log


def bump(host: Host, tpm: Tpm, epoch: int) -> None:
    """What the epoch authority signs once for the whole fleet."""
    authority = host.trust.authorities.epoch
    policy = epoch_set_policy(epoch_name=host.trust.authorities.epoch_name, epoch=epoch)
    _, signature = load_authority(str(host.layout.authority / "epoch.pem")).sign(
        approval_message(policy, REF_EPOCH_SET)
    )
    tpm.bump_epoch(epoch, authority_public=authority.public.raw, signature=signature)


def test_uses_an_old_approval_after_an_epoch_bump(host: Host, intruder: Tpm) -> None:
    """The trust directory still has it, and so the decision allows: it is the TPM that refuses."""
    approval = host.trust.platforms["local"].approvals[0]
    bump(host, intruder, min(approval.epoch, approval.max_epoch) + 1)
    result = host.run("/bin/true")
    assert result.status == 77
    assert "environment_untrusted" in result.stderr
    (denied,) = host.entries(EntryType.DECISION_DENY)
    assert [check["name"] for check in denied.body["checks"] if check["outcome"] == "rejected"] == [
        "environment"
    ]
    with pytest.raises(TpmError):
        bump(host, intruder, approval.epoch)  # nor does it go back


@pytest.fixture
def provisioned(tpm: Tpm) -> Provisioned:
    return provision(tpm)


def test_holds_an_armed_session_over_a_bump(provisioned: Provisioned) -> None:
    """Residual by design: a session whose policy was satisfied before a bump signs once more after it.

    It takes the release key's auth value, and the leaf is worth nothing where the bump is known: verifiers and the
    runner hold approvals against the epoch in the revocations (tests/gate/test_release.py, test_5_epoch_moved_on).
    """
    approval, channel = provisioned.approval(), provisioned.tpm._channel
    key = provisioned.tpm._release
    assert key is not None
    armed = arm(channel, approval, epoch_name=provisioned.authorities.epoch_name)
    with channel.session(policy=True) as session, key.used() as loaded:
        sign = _Sign(session, key, DIGEST)
        _satisfy(channel, armed, session)
        provisioned.bump(approval.epoch + 1)
        code, response = channel.attempt(sign.command(loaded))
        assert code == 0
        provisioned.assert_signed(sign.signature(response))
    with pytest.raises(TpmRefusedError, match="epoch"):
        provisioned.tpm.sign_release(DIGEST, approval)


@pytest.mark.parametrize("what", ["the text", "its digest", "what the AK would sign"])
def test_has_a_checkpoint_signed_by_way_of_a_challenge(shared: Host, what: str) -> None:
    """Everybody may ask for a quote over a challenge of theirs: here, a checkpoint over a leaf that they made up."""
    entry = format_entry(
        type_=EntryType.EXECUTION_START,
        time="2026-01-31T12:00:00.000000Z",
        seq=0,
        boot="3f1c2d4e-5a6b-4c7d-8e9f-0a1b2c3d4e5f",
        body={"leaf": "ab" * 32},
    )
    frontier, nodes = Frontier().append([leaf_hash(entry)])
    origin = shared.status()["log"]["origin"]
    text = Checkpoint(origin, 1, frontier.root(), Batch(0, BatchMode.RECORD, 1)).text()
    bound = b"attestd/checkpoint/v1\0" + shared.id.encode() + b"\0" + text
    challenge = {
        "the text": text,
        "its digest": hashlib.sha256(text).digest(),
        "what the AK would sign": hashlib.sha256(bound).digest(),
    }[what]
    answer = shared.ask("quote", challenge=base64.b64encode(challenge).decode(), platform="local")["ok"]
    quote = join_quote(base64.b64decode(answer["attest"]), base64.b64decode(answer["signature"]))
    key = tpm_quote_vkey(origin, shared.trust.hosts[shared.id].ak_spki)
    note = format_note(text, [NoteSignature(origin, key.key_id, quote)])
    stored = {(node.level, node.index): node.hash for node in nodes}
    path = tuple(inclusion_proof(0, 1, lambda level, index: stored[level, index]))
    with pytest.raises(VerificationError, match="extraData"):
        shared.verify_receipt(format_proof(TlogProof(entry, 0, path, note)))
