"""Targets: evidence, attestation results, and the mesh that vouches for them."""

from functools import cache

from attestd.appraisal.evidence import parse_evidence, parse_evidence_challenge
from attestd.appraisal.host_state import parse_host_state
from attestd.appraisal.result import verify_result
from attestd.appraisal.verifier import parse_boot_logs
from attestd.errors import MalformedError, VerificationError
from attestd.governance.authorities import Authorities
from attestd.governance.mesh import parse_mesh
from attestd.strict import canonical
from tests.appraisal.attesting import BAD, Attesting
from tests.appraisal.test_result import GOOD
from tests.fuzz.target import recanonical, target
from tests.governance.test_mesh import mesh
from tests.world import World


@cache
def _authorities() -> Authorities:
    return World("fuzz").trust().authorities


@target(
    MalformedError,
    VerificationError,
    seeds=lambda: [canonical(mesh(World("fuzz")))],
    is_json=True,
    max_bytes=256 * 1024,
)
def mesh_file(data: bytes) -> None:
    """Each node has a key of its own, and enough of them are there for the quorum."""
    found = parse_mesh(recanonical(data), authorities=_authorities(), revoked_keys=())
    assert (
        found.verifier_quorum <= len({node.key for node in found.verifiers.values()}) == len(found.verifiers)
    )
    assert found.witness_quorum <= len({node.key.body for node in found.witnesses.values()})


# --- evidence --------------------------------------------------------------------------------------------------------


@cache
def _attesting() -> Attesting:
    return Attesting()


@cache
def _evidence() -> bytes:
    return _attesting().answer()


@target(
    MalformedError,
    VerificationError,
    seeds=lambda: [_evidence(), Attesting(boot=False, ima=False).answer()],
    is_json=True,
    max_bytes=128 * 1024,
)
def evidence(data: bytes) -> None:
    """Nothing but what the TPM signed is accepted: the same values, whatever else was changed."""
    document = parse_evidence(data)
    assert parse_evidence(canonical(document)) == document
    attesting = _attesting()
    found = attesting.verifier.verify(document, trust=attesting.trust, state=None, now=attesting.now)
    assert document.pcrs == parse_evidence(_evidence()).pcrs
    assert parse_host_state(found.state.to_bytes()) == found.state


@target(MalformedError, seeds=lambda: [canonical(_attesting().ask())], is_json=True)
def evidence_challenge(data: bytes) -> None:
    found = parse_evidence_challenge(data)
    assert parse_evidence_challenge(canonical(found)) == found


@target(MalformedError, seeds=lambda: [canonical(_attesting().logs)], is_json=True, max_bytes=128 * 1024)
def boot_logs(data: bytes) -> None:
    found = parse_boot_logs(data)
    assert parse_boot_logs(canonical(found)) == found


def _states() -> list[bytes]:
    attesting = Attesting()
    attesting.items.append(BAD)
    return [attesting.verify().state.to_bytes(), Attesting(ima=False).verify().state.to_bytes()]


@target(MalformedError, seeds=_states, is_json=True)
def host_state(data: bytes) -> None:
    found = parse_host_state(recanonical(data))
    assert parse_host_state(found.to_bytes()) == found
    assert all(ima.position.entries == ima.entries for ima in found.ima.values())
    assert found.is_boot_of(found.clock)


# --- results ---------------------------------------------------------------------------------------------------------

_TOKENS = [GOOD.token("two"), GOOD.token("one")]


@target(MalformedError, VerificationError, seeds=lambda: [token.encode() for token in _TOKENS])
def attestation_result(data: bytes) -> None:
    """No other bytes verify but those that were signed."""
    token = data.decode("latin-1")
    found = verify_result(token, mesh=GOOD.mesh, host=GOOD.host, nonce=None, now=GOOD.now)
    assert token in _TOKENS or token.rpartition(".")[0] in {known.rpartition(".")[0] for known in _TOKENS}
    assert found.is_affirming
