"""De-identified copies by the Basic Application Level Confidentiality Profile of PS3.15 Annex E.

`profile` holds Table E.1-1 and what its options change, `pseudonyms` what stands in place of names and UIDs, `refusals`
what cannot be de-identified, `copies` puts a copy together, `codestreams` blanks what encoders wrote beside the pixels.
Called by `iap_node.worker.consignment` (docs/decisions/0026-deidentified-copies.md).
"""
