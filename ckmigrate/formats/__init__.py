"""On-disk formats: one file each, all behind the types of `ckmigrate.formats.base`."""
