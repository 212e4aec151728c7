"""From text pairs to packed records and a dataset that can seek to any step."""
