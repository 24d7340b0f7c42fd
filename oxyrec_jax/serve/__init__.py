"""The server: a catalogue that can be swapped, batches with deadlines, HTTP."""
