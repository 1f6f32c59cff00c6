"""A file in two versions as servers of tests send it, whole or broken off."""

import hashlib
from dataclasses import replace

from hub_server import Answer

CONTENT = bytes(range(256)) * 1000
CHANGED = CONTENT[::-1]
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ETAG = {"ETag": '"one"'}
HALF = len(CONTENT) // 2
SOUND = Answer(CONTENT, headers=ETAG)
BROKEN = replace(SOUND, stop_after=HALF)
ABSURD = 10**18
