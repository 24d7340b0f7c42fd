"""What a recommendation is worth: components, and their mapping to one number."""
