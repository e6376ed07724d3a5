"""The governance role: the published files of a TUF repository, as static files.

Every name but one says what is in the file (`3.root.json`, `<sha256>.<name>`): such a file never changes, and may be kept
for ever by whoever has it. `timestamp.json` alone is asked for each time.
"""

import asyncio
import os
import re
from pathlib import Path
from typing import BinaryIO, Final

from attestd.controller.http.operation import Answer, Call, Operation, Response
from attestd.controller.http.problem import MEDIA_TYPE, Problem
from attestd.distribution.mirror import Mirror
from attestd.errors import MalformedError, VerificationError

__all__ = ["governance_operations"]

_IMMUTABLE: Final = "public, max-age=31536000, immutable"
_ALWAYS_ASK: Final = "no-cache"
_NAMED_BY_CONTENT: Final = re.compile(
    r"\A(metadata/[1-9][0-9]*\.[^/]+\.json|targets/([^/]+/){0,3}[0-9a-f]{64}\.[^/]+)\Z"
)
_BYTES: Final = "application/octet-stream"
_JSON_FILE: Final = "application/json"


def governance_operations(directory: Path) -> list[Operation]:
    """The one operation.

    Args:
        directory: What was published: `metadata/` and `targets/`, and nothing else of it is ever read.
    """

    async def get_file(call: Call) -> Answer:
        path = call.parameters["path"]
        # Refused on the event loop; a directory of a network that hangs holds a thread, not the service.
        try:
            file = await asyncio.to_thread(_open, directory, path)
        except (MalformedError, VerificationError) as error:
            raise Problem(404, "no published file has this name") from error
        if file is None:
            raise Problem(404, "no such file is published")
        return _answer(path, file, call.headers.get("if-none-match", ""))

    return [
        Operation(
            name="getGovernance",
            method="GET",
            path="/governance/{path:path}",
            summary="A published file of governance (TUF)",
            handler=get_file,
            parameters={
                "path": "`metadata/timestamp.json`, `metadata/1.root.json`, `targets/<sha256>.<name>`"
            },
            ordinary=frozenset({404}),  # each host looks for the next root
            responses={
                200: Response("The file.", _JSON_FILE),
                304: Response("As `If-None-Match` has it.", ""),
                404: Response("No such file.", MEDIA_TYPE),
            },
        )
    ]


def _open(directory: Path, path: str) -> BinaryIO | None:
    with Mirror.open(directory) as mirror:
        return mirror.open_published(path)


def _answer(path: str, file: BinaryIO, known: str) -> Answer:
    status = os.fstat(file.fileno())
    etag = f'"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"'
    headers = {
        "etag": etag,
        "cache-control": _IMMUTABLE if _NAMED_BY_CONTENT.match(path) else _ALWAYS_ASK,
    }
    if etag in (tag.strip() for tag in known.split(",")):
        file.close()
        return Answer(status=304, media_type="", headers=headers)
    media_type = _JSON_FILE if path.endswith(".json") else _BYTES
    return Answer(file=file, media_type=media_type, headers=headers)
