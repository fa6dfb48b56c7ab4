"""The net effect of scripts as a program of its own, for people who do not have ckmigrate."""
