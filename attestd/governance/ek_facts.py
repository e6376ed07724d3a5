"""What `ek-roots/` and `ek-allow.json` say, as facts that can be compared (`attestd.governance.changes`). Pure."""

import json
import re
from base64 import b64decode
from hashlib import sha256

from cryptography.hazmat.primitives.serialization import Encoding

from attestd.errors import MalformedError
from attestd.governance.facts import Facts, text, texts
from attestd.tcg.ek_certificate import parse_ek_certificate

__all__ = ["ek_allow_facts", "ek_file_facts", "ek_index_facts"]
