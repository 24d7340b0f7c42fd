"""Items to semantic IDs: embeddings, residual quantisers, the table and its trie."""
