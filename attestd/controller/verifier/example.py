"""Evidence as a host sends it, for the document; `docs/formats/evidence.md` has the same."""

from typing import Final

from attestd.strict import canonical

__all__ = ["ASK_EXAMPLE", "EVIDENCE_EXAMPLE"]

_HOST: Final = "aabef52cf8039351aba302c6e5b683a98f9bb0419b48898ed73372947a736220"

ASK_EXAMPLE: Final = canonical({"host": _HOST, "platform": "local", "v": 1})
# Of the right form; only a quote over the verifier's own challenge makes one that is accepted.
EVIDENCE_EXAMPLE: Final = canonical(
    {
        "agent": "attestd 0.1.0",
        "challenge": "AAAAAGmkKnwAAAAAAAAAAAAAAAAAAAAAEenSAAYxGmf1JLqMqeo4UCXh3p8XtWYqakGJqw0ua4M",
        "eventlog": {
            "log": None,
            "sha256": "c8d7ad810bf88a7748036b5f863b4c2ca438cd47fc63fe2c4d3b8b45fa9a0d18",
        },
        "host": _HOST,
        "ima": {"entries": "", "offset": 96},
        "pcrs": {"sha256": {"7": "b15dbed83dd31664688876fbf6786ce1fce16511183708d23a5ac347b4ef9fcd"}},
        "platform": "local",
        "quote": (
            "_1RDR4AYACIAC6r3ujeSVk7WaHmO3YcDosA-7skm4B5yRa34c4FO-8pEACB8U0K5UgBfq1jSKdaZbhr5QFmuqF8QVfbZse7t4jFhYQAA"
            "AAAAAeYoAAAABwAAAAEBAAAAAAAAICMAAAABAAsDlR0AACCO8lVYlPIETgdt67zVjC4BJqFXdH2ka2IdLyVHzBcy6w"
        ),
        "signature": (
            "ABgACwAg8uSPPkYdJ4lW_l1pTsHKRO72qN0FZvp882xFHyrs9r4AIAwdQtdjvTyjYNcdRSzY6rLSUm19HOg25Y3TpAmKUEV2"
        ),
        "v": 1,
    }
)
