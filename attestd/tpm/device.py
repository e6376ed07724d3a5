"""`Tpm`: everything that attestd asks of a TPM, for one thread at a time."""

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Final, Self

from attestd.errors import TpmError, UsageError
from attestd.tcg.nv import COUNTER_INDEX, EPOCH_INDEX, counter_public, epoch_public, nv_name
from attestd.tcg.pcr import PcrSelection
from attestd.tcg.public import parse_public
from attestd.tpm import capabilities, nv, pcrs, self_testing
from attestd.tpm._channel import Channel, Transport
from attestd.tpm._commands import Cc, u16
from attestd.tpm._tcti import Tcti
from attestd.tpm.capabilities import TpmProperties, read_properties
from attestd.tpm.endorsement import EndorsementKey, activate_credential, endorsement_key
from attestd.tpm.held import HeldKey, Slots, hold_keys, slots_of
from attestd.tpm.keys import AuthValues, KeyBlobs, certify, create_keys
from attestd.tpm.release import Armed, ReleaseApproval, arm, sign_release
from attestd.tpm.timed import Observe, TimedTransport

__all__ = ["Tpm"]

_MAX_ARMED: Final = 8
_PATIENCE_S: Final = 8.0
# What a predecessor that was killed left. Beside a resource manager nothing is loaded between commands but by who has
# the device itself open, which one process can; what is saved is the resource manager's.
_LEFT_LOADED: Final = (capabilities.TRANSIENT, capabilities.LOADED_SESSIONS)
_LEFT_BEHIND: Final = (*_LEFT_LOADED, capabilities.SAVED_SESSIONS)
_STATE_CLEAR = u16(0x0000)


class Tpm:
    """A connection to a TPM. Not thread-safe: `TpmOwner` gives it a thread.

    Holds nothing but attestation key and release key, and flushes only what it loaded. All methods that reach the
    TPM raise `TpmRefusedError` (a policy, an auth value or a signature does not hold), `TpmUnavailableError` (no
    answer, lockout, failure, no free slots) or `TpmError` (anything else), with the TPM's own words and code.
    """

    def __init__(
        self,
        tcti: str | Transport,
        *,
        exclusive: bool = False,
        slots: Slots | None = None,
        on_close: Callable[[], None] | None = None,
        observe: Observe | None = None,
    ) -> None:
        """Connects.

        Args:
            tcti: A tpm2-tss TCTI string, such as `device:/dev/tpmrm0` or `swtpm:path=/run/x/sock`; or
                an open transport.
            exclusive: The TPM is ours alone and has no resource manager: flushes what a predecessor that was
                killed left loaded. Never for a TPM with other users.
            slots: How the TPM is shared; None: as its TCTI string says.
            on_close: Called once, when the connection is closed.
            observe: Gets the name of each command, and how many seconds it took.

        Raises:
            UsageError: Not a TCTI string.
            TpmUnavailableError: There is no TPM at its end.
        """
        transport = Tcti(tcti) if isinstance(tcti, str) else tcti
        self._channel = Channel(transport if observe is None else TimedTransport(transport, observe))
        self._on_close = on_close
        self._slots = slots or (slots_of(tcti) if isinstance(tcti, str) else Slots.OURS)
        self._ak: HeldKey | None = None
        self._release: HeldKey | None = None
        self._counter_auth: bytes | None = None
        self._armed: dict[ReleaseApproval, Armed] = {}
        left = _LEFT_BEHIND if exclusive else _LEFT_LOADED if self._slots is Slots.SHARED else ()
        if left:
            try:
                self._flush_all(left)
            except BaseException:
                self._channel.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def is_lost(self) -> bool:
        """Whether the connection has failed: only a new one will work."""
        return self._channel.is_lost

    def close(self) -> None:
        """Flushes our keys and disconnects. Never fails: there is nothing left to do about it."""
        self.unload_keys()
        self._channel.close()
        if self._on_close is not None:
            on_close, self._on_close = self._on_close, None
            on_close()

    # Keys

    def endorsement_key(self) -> EndorsementKey:
        """Reads the EK that the TPM's certificate is for (TCG EK Credential Profile, `tcg.endorsement.TEMPLATES`).

        Returns:
            P-256 if there is a certificate for it, else RSA-2048 if there is one for that, else one of the high
            range that has one, else P-256 without.

        Raises:
            TpmError: The certificate is damaged, or for another key.
        """
        return endorsement_key(self._channel)

    def activate_credential(self, *, ek_public: bytes, id_object: bytes, encrypted_secret: bytes) -> bytes:
        """Recovers the secret of a credential for this TPM's EK and attestation key (Part 3, 12.5).

        Args:
            ek_public: TPMT_PUBLIC of the EK, as `endorsement_key` told it.
            id_object: TPM2B_ID_OBJECT, with its size; `encrypted_secret`, TPM2B_ENCRYPTED_SECRET, likewise.

        Raises:
            TpmRefusedError: The credential is for another EK or another attestation key, or was changed.
            TpmError: The TPM has another EK than that.
            MalformedError, VerificationError: `ek_public` is no EK's.
        """
        with _held(self._ak).used() as ak:
            return activate_credential(
                self._channel, ak, ek_public=ek_public, id_object=id_object, encrypted_secret=encrypted_secret
            )

    def create_keys(self, *, root_name: bytes, auth_values: AuthValues) -> KeyBlobs:
        """Makes an attestation key and a release key inside the TPM. Neither is loaded.

        Args:
            root_name: The Name of the root authority's key: the release key signs under `release_policy` of it.
            auth_values: What using the keys will take, besides.

        Returns:
            The keys as they are stored.
        """
        return create_keys(self._channel, root_name=root_name, auth_values=auth_values)

    def load_keys(self, blobs: KeyBlobs, auth_values: AuthValues) -> None:
        """Loads both keys, for as long as the connection lasts; instead of those loaded before.

        Raises:
            TpmError: The blobs are of another TPM, or of this one before it was cleared.
            MalformedError: The public areas do not parse.
        """
        self.unload_keys()
        self._ak, self._release = hold_keys(self._channel, blobs, auth_values, self._slots)
        self._counter_auth = auth_values.counter

    def unload_keys(self) -> None:
        """Flushes both keys."""
        for key in (self._ak, self._release):
            if key is not None:
                key.flush()
        self._ak = self._release = None
        self._armed.clear()

    def certify_release_key(self, extra_data: bytes) -> tuple[bytes, bytes]:
        """The attestation key's word that the release key lives in this TPM (Part 3, 18.2 TPM2_Certify).

        Args:
            extra_data: `tcg.extra_data` of purpose `enroll`.

        Returns:
            TPMS_ATTEST and TPMT_SIGNATURE.
        """
        bound = _bound(extra_data)
        with _held(self._release).used() as key, _held(self._ak).used() as signer:
            return certify(self._channel, key, signer, bound)

    # PCRs

    def quote(
        self, selections: PcrSelection | Sequence[PcrSelection], extra_data: bytes
    ) -> tuple[bytes, bytes]:
        """The attestation key's word on PCRs, clock and reset counts (Part 3, 18.4 TPM2_Quote).

        Args:
            selections: The PCRs, of one bank or several.
            extra_data: `tcg.extra_data`: never bytes that a caller chose.

        Returns:
            TPMS_ATTEST and TPMT_SIGNATURE.
        """
        bound = _bound(extra_data)
        with _held(self._ak).used() as key:
            return pcrs.quote(self._channel, key, _tuple(selections), bound)

    def read_pcrs(self, selection: PcrSelection) -> dict[int, bytes]:
        """Reads PCRs as they were at one moment (Part 3, 22.4 TPM2_PCR_Read).

        A response holds at most eight values: reads again from the start when a PCR was extended in between.

        Raises:
            TpmUnavailableError: PCRs were extended during every attempt.
            TpmError: The TPM does not have such a bank or PCR.
        """
        return pcrs.read(self._channel, selection)

    def extend(self, pcr: int, digests: Mapping[str, bytes]) -> None:
        """Extends a PCR (Part 3, 22.2 TPM2_PCR_Extend).

        Args:
            pcr: Its index.
            digests: A digest for each bank, by the bank's hash.

        Raises:
            UsageError: An unknown bank, or none.
        """
        pcrs.extend(self._channel, pcr, digests)

    # Release

    def sign_release(
        self, digest: bytes, approval: ReleaseApproval, *, patience_s: float = _PATIENCE_S
    ) -> bytes:
        """Signs with the release key, if the TPM finds the platform in the approved state.

        Architecture, "Release policy". A PCR extended while the policy runs (IMA does so at each exec) is no
        refusal: it is tried again.

        Args:
            digest: SHA-256 of the note text.
            approval: The state, and the authorities' signatures. Verified by the TPM at its first use; epoch and
                PCRs are compared each time.
            patience_s: For how long it is tried again.

        Returns:
            The DER ECDSA signature.

        Raises:
            TpmRefusedError: The epoch is over, PCRs differ, an approval's signature or the auth value is wrong.
        """
        key = _held(self._release)
        armed = self._armed.get(approval)
        if armed is None:
            armed = arm(self._channel, approval, epoch_name=self._epoch_name())
            if len(self._armed) >= _MAX_ARMED:
                del self._armed[next(iter(self._armed))]
            self._armed[approval] = armed
        return sign_release(self._channel, armed, key, digest, patience_s=patience_s)

    # NV: epoch and log counter

    def define_epoch(self, authority_public: bytes) -> None:
        """Defines the epoch index under its authority; does nothing where that is done.

        Raises:
            TpmError: There is another index at its handle.
        """
        name = parse_public(authority_public).name
        nv.define(self._channel, epoch_public(name, written=False))

    def init_epoch(self, epoch: int, *, authority_public: bytes, sign: Callable[[bytes], bytes]) -> None:
        """The epoch's first write. Its authority signs now: a signature of before a redefinition does not serve.

        Args:
            epoch: The first epoch.
            authority_public: TPMT_PUBLIC of the epoch authority.
            sign: From a message to the authority's DER ECDSA-SHA256 signature over it.

        Raises:
            TpmRefusedError: Not that authority's signature, or the epoch has been written before.
        """
        nv.init_epoch(self._channel, epoch, authority_public=authority_public, sign=sign)

    def bump_epoch(self, epoch: int, *, authority_public: bytes, signature: bytes) -> None:
        """Moves the epoch up: what was approved for earlier epochs is over.

        Args:
            epoch: The new epoch.
            authority_public: TPMT_PUBLIC of the epoch authority.
            signature: Its DER ECDSA-SHA256 signature over `approval_message(epoch_set_policy(...),
                REF_EPOCH_SET)`, the same for every host.

        Raises:
            TpmRefusedError: Not above the present epoch, or not that authority's signature.
        """
        nv.bump_epoch(self._channel, epoch, authority_public=authority_public, signature=signature)

    def read_epoch(self) -> int:
        """The present epoch.

        Raises:
            TpmError: Not defined, or never written.
        """
        return nv.read_number(self._channel, EPOCH_INDEX)

    def define_counter(self, auth_value: bytes) -> None:
        """Defines the log counter, and steps it for the first time; does nothing where that is done.

        Args:
            auth_value: `AuthValues.counter`.

        Raises:
            TpmError: There is another index at its handle.
            TpmRefusedError: It is there, with another auth value.
        """
        self._counter_auth = auth_value
        if nv.read_name(self._channel, COUNTER_INDEX) == nv_name(counter_public(written=True)):
            return
        nv.define(self._channel, counter_public(written=False), auth_value=auth_value)
        self.step_counter()

    def step_counter(self) -> int:
        """Steps the log counter by one; returns its value then."""
        return nv.step_counter(self._channel, self._counter_secret())

    def read_counter(self) -> int:
        """The log counter.

        Raises:
            TpmError: Not defined, or never stepped.
        """
        return nv.read_number(self._channel, COUNTER_INDEX, auth_value=self._counter_secret())

    def _counter_secret(self) -> bytes:
        if self._counter_auth is None:
            raise UsageError("no auth value for the log counter: load the keys first")
        return self._counter_auth

    def nv_name(self, index: int) -> bytes | None:
        """The Name of an NV index; None where it is not defined."""
        return nv.read_name(self._channel, index)

    def undefine(self, index: int) -> None:
        """Removes an NV index: for deprovisioning, and for what a broken `init` left."""
        self._armed.clear()
        nv.undefine(self._channel, index)

    def _epoch_name(self) -> bytes:
        name = nv.read_name(self._channel, EPOCH_INDEX)
        if name is None:
            raise TpmError(
                f"the epoch index {EPOCH_INDEX:#010x} is not defined: provision this TPM (attestd init)"
            )
        return name

    # Condition

    def properties(self) -> TpmProperties:
        """The TPM's identity and condition."""
        return read_properties(self._channel)

    def was_shut_down(self) -> bool:
        """Whether it was shut down in order before it started last; if not, orderly counters jumped."""
        return capabilities.was_shut_down(self._channel)

    def self_test(self) -> None:
        """Has the TPM test itself in full (Part 3, 10.2 TPM2_SelfTest).

        Raises:
            TpmUnavailableError: It fails, and is now in failure mode.
        """
        self_testing.run_self_test(self._channel)

    def require_tested(self) -> None:
        """Asks for the outcome of the self test (Part 3, 10.4 TPM2_GetTestResult); works in failure mode as well.

        Raises:
            TpmUnavailableError: It failed: the TPM is in failure mode.
            TpmError: Any other outcome than success, or that tests are still to be made.
        """
        self_testing.require_tested(self._channel)

    def shutdown(self) -> None:
        """Prepares a TPM that is ours alone for its end (Part 3, 9.4 TPM2_Shutdown): counters are saved."""
        self.unload_keys()
        self._channel.run(Cc.SHUTDOWN, params=_STATE_CLEAR)

    def _flush_all(self, kinds: Sequence[int]) -> None:
        for kind in kinds:
            for handle in capabilities.handles(self._channel, kind):
                self._channel.flush(handle)


def _held(key: HeldKey | None) -> HeldKey:
    if key is None:
        raise UsageError("the keys are not loaded")
    return key


def _bound(extra_data: bytes) -> bytes:
    if len(extra_data) != 32:
        raise UsageError(
            f"extraData of {len(extra_data)} bytes: the attestation key signs over tcg.extra_data only"
        )
    return extra_data


def _tuple(selections: PcrSelection | Sequence[PcrSelection]) -> tuple[PcrSelection, ...]:
    return (selections,) if isinstance(selections, PcrSelection) else tuple(selections)
