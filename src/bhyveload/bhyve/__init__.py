"""bhyve(8)'s own words: its options, its tree of configuration variables, its devices as values.

    command line --> tree (bhyve_config(5)) --> guest: processors, memory, devices as values

Nothing here touches the host or knows what will run the guest: that is handoff's.  Sources: usr.sbin/bhyve of FreeBSD
13.2 and of 2026's CURRENT, bhyve(8), bhyve_config(5).
"""
