import json
from pathlib import Path

import pytest

from attestd.authorization.artifact import parse_artifact, verify_artifact
from attestd.authorization.dsse import PublicKey, pae
from attestd.strict import canonical
from tests.authorization.builders import golden
from tests.authorization.make_vectors import vectors

_DIRECTORY = Path(__file__).parent / "vectors"


@pytest.mark.parametrize("name", sorted(vectors()))
def test_the_checked_in_file_is_what_the_generator_writes(name):
    assert (_DIRECTORY / name).read_bytes() == vectors()[name]


def test_no_file_without_a_generator():
    assert {path.name for path in _DIRECTORY.iterdir()} == set(vectors())


def test_the_golden_artifact_verifies_with_all_three_kinds_of_keys():
    described = json.loads((_DIRECTORY / "deploy.json").read_text())
    artifact = parse_artifact((_DIRECTORY / "deploy.auth.json").read_bytes())
    keys = [PublicKey(bytes.fromhex(key["spki_der"])) for key in described["keys"]]
    verified = verify_artifact(artifact, keys=keys, threshold=3)
    assert verified.id == artifact.id == described["id"]
    assert verified.key_ids == tuple(sorted(key["key_id"] for key in described["keys"]))
    assert pae(artifact.envelope.payload_type, artifact.envelope.payload).hex() == described["pae"]


def test_a_parsed_statement_is_written_back_byte_for_byte():
    artifact = parse_artifact((_DIRECTORY / "deploy.auth.json").read_bytes())
    assert canonical(artifact.statement) == artifact.envelope.payload == canonical(golden())
