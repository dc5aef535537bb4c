"""A guest that has booted, kept in a folder, and clones of it.

format: what the folder has, checked as hostile     saving: a run that can be saved     restoring: clones
"""
