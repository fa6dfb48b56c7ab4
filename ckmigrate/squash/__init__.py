"""One script that does what a stretch of scripts does, proved before it is written."""
