"""The one place where model, loss, data and optimiser meet."""
