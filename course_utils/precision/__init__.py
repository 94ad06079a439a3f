"""Number formats, block formats, summation, and what mixed precision is made of."""
