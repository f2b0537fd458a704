"""A run on one page: `expctr report`."""
