"""Artefacts that answer requests without this package: `oxyrec export`."""
