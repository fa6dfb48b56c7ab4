"""The history: scripts, their graph, the template of a new one."""

from ckmigrate.revisions.graph import History, build_history, read_history
from ckmigrate.revisions.script import LoadedScript, Script, load, read_script

__all__ = [
    "History",
    "LoadedScript",
    "Script",
    "build_history",
    "load",
    "read_history",
    "read_script",
]
