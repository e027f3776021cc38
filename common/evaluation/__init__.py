"""What is measured, how sure it is, and what must be beaten."""
