"""Corrected copies: accepted values written into copies of a series, never into the original.

Values are checked before anything is written, the bytes of a copy are those of its original save for the elements
that change, and each copy says what stood there before. Called by the command `correct` and by
`iap_node.worker.deliver` for destinations with `send: corrected` (docs/decisions/0014-corrected-copies.md).
"""
