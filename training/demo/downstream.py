"""A downstream "model" for the demo: a C-STORE SCP in a process of its own that keeps what it is sent.

Started by the demo as `python -m training.demo.downstream AE_TITLE FOLDER`; prints its port, serves until its standard
input closes. Each data set is written as received to FOLDER/<SOP Instance UID>.dataset.
"""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path

from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import Event


def serve(ae_title: str, folder: Path) -> None:
    """Listen on a free port of 127.0.0.1 until standard input closes."""

    def on_c_store(event: Event) -> int:
        # written under another name first: a reader never sees half a file
        request = event.request
        assert isinstance(request, C_STORE) and isinstance(request.DataSet, BytesIO)
        uid = str(request.AffectedSOPInstanceUID)
        part = folder / f"{uid}.part"
        part.write_bytes(request.DataSet.getvalue())
        part.rename(folder / f"{uid}.dataset")
        return 0x0000

    ae = AE(ae_title=ae_title)
    for context in AllStoragePresentationContexts:
        ae.add_supported_context(str(context.abstract_syntax), ALL_TRANSFER_SYNTAXES)
    folder.mkdir(parents=True, exist_ok=True)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, on_c_store)])
    assert server is not None and server.socket is not None
    print(server.socket.getsockname()[1], flush=True)
    sys.stdin.buffer.read()
    server.shutdown()


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]))
