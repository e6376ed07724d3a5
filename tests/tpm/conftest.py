import pytest

from attestd.tpm.device import Tpm
from tests.tpm.provisioned import Provisioned, provision


@pytest.fixture
def host(tpm: Tpm) -> Provisioned:
    """A fresh software TPM with a host's keys, epoch and counter."""
    return provision(tpm)
