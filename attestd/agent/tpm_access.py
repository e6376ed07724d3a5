"""Opens the TPM that a configuration names: a device, any TCTI string, or the state directory's own software TPM."""

from attestd.agent.keystore import load_keys
from attestd.paths import Configuration, Layout
from attestd.tpm.device import Tpm
from attestd.tpm.embedded import EmbeddedTpm
from attestd.tpm.timed import Observe

__all__ = ["EMBEDDED", "TpmAccess"]

EMBEDDED = "embedded"


class TpmAccess:
    """How to reach the TPM; the embedded one is started where it does not run."""

    def __init__(
        self, configuration: Configuration, layout: Layout, *, observe: Observe | None = None
    ) -> None:
        """Reads the configuration; does nothing yet. `observe`: see `Tpm`."""
        self._observe = observe
        self._tcti = configuration.tpm
        self._keys = layout.keys
        self.embedded = EmbeddedTpm(layout.tpm) if configuration.tpm == EMBEDDED else None

    def open(self) -> Tpm:
        """Connects; called again after a connection was lost."""
        if self.embedded is None:
            return Tpm(self._tcti, observe=self._observe)
        self.embedded.start()
        return self.embedded.open(observe=self._observe)

    def open_loaded(self) -> Tpm:
        """Connects, and loads the host's keys."""
        blobs, auth = load_keys(self._keys)
        tpm = self.open()
        try:
            tpm.load_keys(blobs, auth)
        except BaseException:
            tpm.close()
            raise
        return tpm
