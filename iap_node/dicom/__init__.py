"""What the DICOM standard says: headers, Part 10 files, pixels. No network, no database, no torch."""
