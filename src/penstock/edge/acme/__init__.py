"""Certificates that the server orders itself from an ACME authority (RFC 8555), and renews.

A process of its own does that as the user of the workers: `program`. When it does what, `schedule`
decides; it keeps what it has in a directory (`state`), of which one process at a time is the owner
(`lease`); `orders` is what speaks with the authority, and the only module that imports a library.
What that process hands to the supervisor is checked by `handed_over`.
"""
