"""Start-up is most of a request's latency: what `attestd exec` imports is a list, not a habit."""

import sys

import pytest

from tests.client.harness import FakeAgent, modules_loaded

# What an empty `python -I -S` loads differs between versions; measured here, not listed.
OURS = {
    "attestd",
    "attestd.__main__",
    "attestd.client",
    "attestd.client.files",
    "attestd.client.options",
    "attestd.client.run",
    "attestd.client.stand_in",
    "attestd.where",
    "attestd.wire",
}
# Built into the interpreter, or small shared objects of it.
BUILT_IN = {"_socket", "select"}


def test_the_modules_of_exec(agent: FakeAgent) -> None:
    loaded = modules_loaded("exec", "--", "/bin/true", state_dir=agent.state_dir)
    loaded = loaded[: loaded.index("attestd.client.stand_in") + 1]
    bare = set(sys.builtin_module_names) | BARE
    assert set(loaded) - bare - BUILT_IN == OURS
    # The last one is loaded while the agent works.
    assert loaded[-1] == "attestd.client.stand_in"


# What the interpreter itself needs before the first line of a program.
BARE = {
    "_frozen_importlib_external",
    "abc",
    "codecs",
    "encodings",
    "encodings.aliases",
    "encodings.utf_8",
    "io",
    "zipimport",
}


@pytest.mark.parametrize(
    "name", ["os", "socket", "json", "re", "enum", "signal", "typing", "argparse", "struct"]
)
def test_the_dear_ones_stay_out_on_a_denial_too(agent: FakeAgent, name: str) -> None:
    agent.deny(b"77", b"expired", b"sentence", b"hint", b"", b"", b"", b"")
    assert name not in modules_loaded("exec", "--", "/bin/true", state_dir=agent.state_dir, status=77)
