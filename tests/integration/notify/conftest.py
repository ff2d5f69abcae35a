"""An archive with trouble, certificates for a mail server."""

from __future__ import annotations

from tests.integration.listener.conftest import certificates as certificates
from tests.integration.upkeep.conftest import make_archive as make_archive
