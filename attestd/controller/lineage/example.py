"""A receipt as a host's agent writes it, for the document: the first leaf of a log."""

from typing import Final

__all__ = ["EXAMPLE"]

EXAMPLE: Final = (
    "c2sp.org/tlog-proof@v1\n"
    "extra eyJib2R5Ijp7ImdvdmVybmFuY2UiOm51bGwsImhvc3QiOiJmMjVlOTNlMDYxZjM1NmY0MDczMWNjODZkMmJjMGI5MzhlYjgyZDAyNjky"
    "NGZjZWRlZmFjOWQ3YjVkODU4M2JiIiwibG9nIjoibG9nLTEiLCJwcmV2aW91cyI6bnVsbH0sImJvb3QiOiIzZjFjMmQ0ZS01YTZiLTRjN2QtOG"
    "U5Zi0wYTFiMmMzZDRlNWYiLCJzZXEiOjAsInRpbWUiOiIyMDI2LTAzLTAxVDEyOjAwOjAwLjAwMDAwMFoiLCJ0eXBlIjoibG9nLnN0YXJ0Iiwi"
    "diI6MX0=\n"
    "index 0\n"
    "\n"
    "attestd/f25e93e061f356f40731cc86d2bc0b938eb82d026924fcedefac9d7b5d8583bb/log-1\n"
    "1\n"
    "OSoENpXl4yaue/GYDmkEmrOToEjlmNr7l+m+h0iaHeg=\n"
    "attestd.batch 0 record 0000000000000001\n"
    "\n"
    "— attestd/f25e93e061f356f40731cc86d2bc0b938eb82d026924fcedefac9d7b5d8583bb/log-1 NBMsegCR/1RDR4AYACIAC6r3ujeSV"
    "k7WaHmO3YcDosA+7skm4B5yRa34c4FO+8pEACD2Jb49tWnBFh+6yKebrDxZemrgJOrPta9b5KT0YFYtZQAAAAAAAeJAAAAABwAAAAEBAAAAAAA"
    "AICMAAAABAAsDlRgAACD27N9g/yVuaniBkhFmWZnpm7j/Nwllf/v2mA3N4U+vfQAYAAsAIMZpqClGtVh3fM+vo6sDTzyt4or4lUHy+O+aJp2RS"
    "E3rACCH11ob2ZM1DAz377LTWVGsQ+SyK8zH712gLQcg9+T9lQ==\n"
).encode()
