"""A request as a host sends it, for the document; `docs/formats/enrolment.md` has the same."""

from typing import Final

from attestd.strict import canonical

__all__ = ["EXAMPLE"]

EXAMPLE: Final = canonical(
    {
        "ak": {
            "public": (
                "ACMACwAFBHIAAAAQABgACwADABAAIHE/SGgVkF9JNyb5FM/r4ti9zUL1B+AilmJ76IdwEkPoACDNNKR1"
                "0DdEnaj2ALIgFnn8hzkelFKHW767o2UcQRKpCA=="
            ),
        },
        "ek": {
            "certificates": [],
            "public": (
                "ACMACwADALIAIINxl2dEhLP4GpDMjUal1yT9UtduBlILZPKh2hszFGmqAAYAgABDABAAAwAQACDK98ib"
                "y/9ZlKpnnmYSCcIlR1bcxEOch1TtA7A1CQQT2AAgH38UbcOH9IRCepZ2DSvf3cgRQuUWEjF41oSjNOcT"
                "k/k="
            ),
        },
        "release_key": {
            "certify": {
                "attest": (
                    "/1RDR4AXACIAC6r3ujeSVk7WaHmO3YcDosA+7skm4B5yRa34c4FO+8pEACAAXCQJzYdxSP1j7uUIF2Oa"
                    "9VQD2d+zlDxd+e0csxnHtAAAAAAAAeJAAAAABwAAAAEBAAAAAAAAICMAIgAL0gCxlhqhGpMsIe6YyiIQ"
                    "aNcPrJXGGqqjzDDAAgbWdgwAIgALVGkMByL40ofwIIIwoKHoVDA+SEQtEZyLNAX6TDNtXxo="
                ),
                "signature": (
                    "ABgACwAgbZjzjVXG2xtOwDqWig4qsgHFLs6d+Q9tWjeAD1lT4n4AIPY+hDyRfibw0cf9w84fo0QluyS9"
                    "AvSJB39HeS/XUn9A"
                ),
            },
            "public": (
                "ACMACwAEBDIAIEAZZlrsCqgvbEQfOZcxMLuiKWQVd3miD43nyrGDEXn4ABAAGAALAAMAEAAg0T6UKWHC"
                "q/Z5iF8K1JBRySnQmENqjHGSzqFJMpnncu0AIHCLy4XVHj00B5SLii0csBA+PqJ2qbO+ou0hmjaFde5L"
            ),
        },
        "v": 1,
    }
)
