"""Why two pictures look alike to a model, as maps and concepts that are held against the truth."""
