import pytest

from attestd.codes import EXIT_MALFORMED, EXIT_STATUS, EXIT_USAGE, Code, Denial, Denied
from attestd.errors import AttestdError

# The table of formats.md. Scripts depend on it: a row may be added, none may change.
FROZEN = {
    "missing_authorization": 77,
    "malformed_authorization": 65,
    "invalid_signature": 77,
    "insufficient_approvals": 77,
    "not_yet_valid": 77,
    "expired": 77,
    "uses_exhausted": 77,
    "clock_untrusted": 77,
    "revoked": 77,
    "identity_mismatch": 77,
    "scope_violation": 77,
    "environment_untrusted": 77,
    "evidence_invalid": 77,
    "evidence_stale": 77,
    "policy_denied": 77,
    "policy_conflict": 77,
    "governance_mismatch": 77,
    "lineage_broken": 77,
    "mesh_unavailable": 69,
    "audit_unavailable": 69,
    "tpm_unavailable": 69,
    "agent_unavailable": 69,
    "internal_error": 70,
}


def test_codes_and_exit_statuses_are_frozen():
    assert {code.value: EXIT_STATUS[code] for code in Code} == FROZEN
    assert set(EXIT_STATUS) == set(Code)


def test_exit_statuses_of_sysexits():
    assert (EXIT_USAGE, EXIT_MALFORMED) == (64, 65)


@pytest.mark.parametrize(("name", "status"), FROZEN.items())
def test_a_denial_knows_its_exit_status(name, status):
    denial = Denial(Code(name), "expected a, found b", "do c")
    assert denial.exit_status == status
    assert f"{denial.code}" == name


def test_denied_carries_its_denial_and_is_no_fault():
    denied = Denied(Code.EXPIRED, "expected a, found b", "do c")
    assert denied.denial == Denial(Code.EXPIRED, "expected a, found b", "do c")
    assert str(denied) == "expired: expected a, found b"
    assert not isinstance(denied, AttestdError)
