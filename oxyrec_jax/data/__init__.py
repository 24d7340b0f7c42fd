"""From a behaviour log to batches: schema, readers, filters, protocols, pipeline."""
