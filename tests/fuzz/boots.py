"""Targets: the files that the next boot will measure, and logs of boots to predict from."""

from attestd.appraisal.predict import PREDICTED, Change, Running, predict
from attestd.errors import AttestdError, MalformedError, UsageError, VerificationError
from attestd.tcg.eventlog.parse import parse_event_log
from attestd.tcg.pe import parse_pe
from attestd.tcg.uki import parse_uki
from tests.appraisal.predict.build import SIGNED, Grub, image, keys, options, section, started
from tests.fuzz.target import target
from tests.tcg.build_pe import SIGNED as BY_SBSIGN
from tests.tcg.build_pe import STUB, pe, uki
from tests.tcg.eventlog.build import RECORDED, event, log

UKI = pe({".sdmagic": STUB, ".linux": image(b"kernel"), ".cmdline": b"quiet"}, signatures=(SIGNED,))
CHANGES = (
    Change(uki=UKI),
    Change(kernel=image(b"kernel", SIGNED), command_line="single", grub_config=b"linux /vmlinuz-1 single\n"),
    Change(shim=image(b"shim", SIGNED), images={".efi": image(b"grub", SIGNED)}),
    Change(initrd=b"initrd", variables={"db": b"", "dbx": b""}),
)


@target(
    MalformedError,
    seeds=lambda: [
        UKI,
        uki(linux=b"kernel", cmdline=b"quiet"),
        BY_SBSIGN.read_bytes(),
        pe({".text": b"x"}, plus=False, tail=b"more", signatures=(SIGNED,)),
    ],
)
def pe_image(data: bytes) -> None:
    """Whatever parses is hashed: not more bytes than it has, and none twice."""
    parsed = parse_pe(data)
    assert sum(len(part) for part in parsed.hashed) <= len(data)
    assert len(parsed.digest("sha256")) == 32
    assert len(parse_uki(parsed).measured) >= 1
    parsed.certificates()


@target(
    MalformedError,
    VerificationError,
    UsageError,
    seeds=lambda: [
        log(
            *keys(),
            started("a", b"a"),
            *section(".linux", b"k"),
            *section(".cmdline", b"quiet"),
            options("quiet"),
        ),
        log(*keys(), started("g", b"g"), *Grub().events()),
        log(*keys(), started("k", b"k"), event(12, 13, "quiet\0".encode("utf-16-le")), options("quiet")),
        *(data for data, _ in RECORDED.values()),
    ],
)
def log_to_predict_from(data: bytes) -> None:
    """What is predicted has a value or a reason for each PCR."""
    parsed = parse_event_log(data)
    refusals: list[AttestdError] = []
    for change in CHANGES:
        try:
            found = predict(
                parsed, bank=parsed.banks[-1] if parsed.banks else "", change=change, running=Running("quiet")
            )
        except AttestdError as error:
            refusals.append(error)
            continue
        assert {*found.values, *found.unknown} >= set(PREDICTED)
    if len(refusals) == len(CHANGES):
        raise refusals[0]
