"""Lets pytest find the plugin of this repository where the package is not installed."""

from __future__ import annotations

from importlib.metadata import entry_points

pytest_plugins = ["pytester"]

# Installed, it is found by its entry point, and must not be loaded twice.
if not any(point.name == "ckmigrate" for point in entry_points(group="pytest11")):
    pytest_plugins.append("ckmigrate.pytest_plugin")
