"""Series from a PACS: `search` asks what it has, `retrieve` has it sent, `run` does both and skips what is here.

An SCU of C-FIND and of C-MOVE or C-GET (PS3.4 Annex C). Called by `iap-node pull` and `iap-node pull-schedule`.
"""
