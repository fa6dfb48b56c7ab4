"""Example projects; not part of the ckmigrate package."""
