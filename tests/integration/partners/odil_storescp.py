"""A C-STORE SCP made of odil, run by Debian's Python: `odil_storescp.py PORT` until it is killed.

Says each data set that it decoded as a line of JSON: SOP Instance UID, Modality, Echo Time where there is one, how many
elements, SHA-256 of the pixel data.
"""

import hashlib
import json
import sys

import odil


def describe(request):
    """Decode what came, by odil alone, and say so; Success."""
    ds = request.get_data_set()
    pixels = b"".join(bytes(part) for part in ds.as_binary("PixelData")) if ds.has("PixelData") else b""
    said = {
        "sop_instance_uid": ds.as_string("SOPInstanceUID")[0].decode(),
        "modality": ds.as_string("Modality")[0].decode(),
        "echo_time_ms": ds.as_real("EchoTime")[0] if ds.has("EchoTime") else None,
        "n_elements": ds.size(),
        "pixels": hashlib.sha256(pixels).hexdigest(),
    }
    print(json.dumps(said), flush=True)
    return 0x0000


def main():
    """One association after the other."""
    while True:
        association = odil.Association()
        association.set_tcp_timeout(60)
        association.receive_association("v4", int(sys.argv[1]))
        dispatcher = odil.SCPDispatcher(association)
        echo, store = odil.EchoSCP(association), odil.StoreSCP(association)
        echo.set_callback(lambda request: 0x0000)
        store.set_callback(describe)
        dispatcher.set_echo_scp(echo)
        dispatcher.set_store_scp(store)
        try:
            while True:
                dispatcher.dispatch()
        except (odil.AssociationReleased, odil.AssociationAborted):
            continue


if __name__ == "__main__":
    main()
