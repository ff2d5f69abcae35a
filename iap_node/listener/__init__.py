"""DICOM network in: `scp` starts and stops, `receiver` moves bytes, `handlers` decide, `admission` says who may,
`intake` files instances."""
