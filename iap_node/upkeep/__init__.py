"""The spool in the long run: what may go (retention), when the disk is full (forecast), whether all is there (fsck),
and what could not be filed (quarantine).

Called by the scheduler and by the command line; the quarantine by the listener too.
"""
