"""What the node found out about a series, for other systems: one record, as JSON and as a DICOM SR document.

`content` gathers the record from the archive, `identity` reads patient and study from the instances themselves (the
archive keeps no identity), `document` writes the SR by the template of `codes`, `report` does all of it for one series.
Called by the worker's delivery, the command `result` and the API (docs/decisions/0021-results-as-dicom.md).
"""
