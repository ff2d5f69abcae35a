"""C-STORE ingest measured: this node beside DCMTK, Orthanc and pynetdicom, in one run. See `__main__`."""
