"""A guest's disks looked into from outside: what is on them, what would boot, files out of them.  Read only."""
