"""DICOM network in: `scp` starts and stops, `handlers` decide, `admission` says who may, `intake` files
instances."""
