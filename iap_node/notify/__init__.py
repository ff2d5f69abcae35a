"""Telling people that something is wrong, and when it is over: by e-mail and by webhook.

`conditions` says what is wrong now, `decision` what of that is news to a channel, `email` and `webhook` carry it,
`watch` does all of it each minute, for the scheduler. Conditions begin and end; what merely happens once, as the end of
a training, is no condition: who knows of it calls `database.notifications.announce` in the transaction in which it
happens, and `watch` tells it, after quiet hours if need be.

No message carries anything of a patient or of a header, save UIDs: it travels through other people's machines.
"""
