"""A guest while it runs: the terminal, signals, its control socket, going into the background, starting it again.

For every program that runs guests (bhyverun, bhyve).  What runs them is handoff/'s business.
"""
