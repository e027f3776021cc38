"""The Similarity Lab: a page on this machine where pictures are compared, models fooled, asked why, and searched."""
