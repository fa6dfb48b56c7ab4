"""Plans, schemas and errors as text and as JSON."""
