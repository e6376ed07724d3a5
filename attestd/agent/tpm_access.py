"""Opens the TPM that a configuration names: a device, any TCTI string, or the state directory's own software TPM."""

from collections.abc import Callable

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
        self.embedded = EmbeddedTpm(layout.tpm) if configuration.tpm == EMBEDDED else None

    def opener(self) -> Callable[[], Tpm]:
        """Connects; called again after a connection was lost."""

        def connect() -> Tpm:
            if self.embedded is None:
                return Tpm(self._tcti, observe=self._observe)
            self.embedded.start()
            return self.embedded.open(observe=self._observe)

        return connect
