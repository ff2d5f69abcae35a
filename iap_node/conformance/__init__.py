"""The DICOM Conformance Statement, printed from the tables that the code works by: `python -m iap_node.conformance`."""
