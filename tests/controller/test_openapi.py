"""The document against the service: by clients that are not ours."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from attestd.controller.witness.role import _EXAMPLE, _PATTERN
from attestd.strict import canonical
from tests.controller.logs import Log
from tests.controller.running import Controller
from tests.controller.test_witness_hosts import write
from tests.distribution.repositories import write_key
from tests.governance.test_mesh import mesh
from tests.world import World


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    """With every role that there is."""
    top = tmp_path_factory.mktemp("openapi")
    (top / "logs").write_text(f"{Log().vkey}\n")
    with Controller(
        top / "state", roles=["witness", "governance", "enroller", "verifier", "lineage"],
        governance=str(top / "state" / "web"),
        witness_name="witness.example/1", witness_logs=str(top / "logs"), witness_mldsa=False,
        enroller_key=str(write_key(top, "openapi enroller")), verifier_name="one",
        verifier_key=str(write_key(top, "tpm verifier one")),
    ) as made:  # fmt: skip
        world = World("openapi", now=datetime.now(UTC).replace(microsecond=0))
        world.extra["mesh.json"] = canonical(mesh(world))
        write(world, made)
        yield made.init().start()


# JSON Schema takes 9764.0 for an integer, and no schema can say otherwise; nor what text is a receipt.
_CONFIGURATION = """
[[operations]]
include-path = "/v1/evidence"
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "403", "404", "409"]

[[operations]]
include-path = "/v1/receipts"
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "403", "422"]
"""


def test_schemathesis_finds_nothing(controller: Controller, tmp_path: Path) -> None:
    """No 5xx, no answer that the document does not say, whatever it sends."""
    (tmp_path / "schemathesis.toml").write_text(_CONFIGURATION)
    program = Path(sys.executable).with_name("schemathesis")
    done = subprocess.run(
        [
            program, "run", f"http://127.0.0.1:{controller.port}/openapi.json", "--no-color", "-n", "12",
            "--seed", "1", "--generation-database", "none", "--phases", "examples,coverage,fuzzing",
            # Behind operators' certificates nothing is reached: tests/controller/test_operators.py goes there.
            "--exclude-path-regex", "^/v1/hosts",
        ],
        capture_output=True, text=True, check=False, timeout=280, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert re.search(r"(\d+) generated", done.stdout), done.stdout
    assert not [line for line in controller.said if "request.bug" in line or "request.failed" in line]


def test_curl_with_its_examples(controller: Controller) -> None:
    document = controller.get("/openapi.json").json
    asked = 0
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if "parameters" in operation:
                continue
            command = ["curl", "-sS", "-X", method.upper(), "-w", "\n%{http_code} %{content_type}"]
            for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
                example = content["example"]
                body = example if isinstance(example, str) else json.dumps(example)
                command += ["-H", f"content-type: {media_type}", "--data-binary", body]
            done = subprocess.run(
                [*command, f"http://127.0.0.1:{controller.port}{path}"],
                capture_output=True, text=True, check=True, timeout=60,
            )  # fmt: skip
            status, media_type = done.stdout.rpartition("\n")[2].split(" ", 1)
            assert media_type in operation["responses"][status]["content"], (path, done.stdout)
            asked += 1
    assert asked >= 5


def test_the_pattern_is_that_of_requests() -> None:
    pattern = re.compile(_PATTERN)
    log = Log()
    log.grow(30)
    for body in (_EXAMPLE, log.request(0, 0), log.request(0, 9), log.request(9, 30)):
        assert pattern.match(body.decode())
    for wrong in (b"", b"old 01" + _EXAMPLE[5:], _EXAMPLE[:-1], _EXAMPLE.replace(b"\n\n", b"\n", 1)):
        assert not pattern.match(wrong.decode())
