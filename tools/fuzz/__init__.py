"""Random inputs to everything that reads what others wrote."""
