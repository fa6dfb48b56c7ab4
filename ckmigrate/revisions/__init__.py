"""The history: scripts, their graph, the template of a new one."""
